// Importance matrices: for each matrix of a model, by its GGUF tensor name, the squares of what its
// columns were multiplied with, summed over the tokens of some text. Quantizers weigh the errors of
// a row with them (Format::quantize_weighted). Files are llama.cpp's, both kinds:
//   GGUF    general.type "imatrix"; imatrix.datasets, imatrix.chunk_count, imatrix.chunk_size; for
//           each matrix NAME.in_sum2 F32 [cols] (or [experts, cols]), the sums, and NAME.counts F32
//           [1] (or [experts, 1]), the number of tokens
//   legacy  i32 matrices; for each i32 length, name, i32 chunks, i32 values, the values F32, mean
//           times chunks; then i32 chunks of all, i32 length, the data set's name
#ifndef LAPIDARY_QUANT_IMATRIX_H_
#define LAPIDARY_QUANT_IMATRIX_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace lapidary {

struct ImportanceEntry {
  std::vector<float> sums;      // of squares, by column; of experts one after the other
  std::vector<int64_t> counts;  // tokens of each expert; of a matrix without experts one number
};

struct ImportanceMatrix {
  std::map<std::string, ImportanceEntry> entries;  // by GGUF tensor name: "blk.0.attn_q.weight"
  std::vector<std::string> datasets;               // what was read to measure it
  int64_t chunk_count = 0;                         // 0: not known
  int64_t chunk_size = 0;                          // tokens; 0: not known
  bool legacy = false;                             // counts are chunks, sums are means times those

  // The weights of `name`'s columns, sum / count in float32 as llama-quantize divides; 1 for an
  // expert that no token came to. Empty if the matrix is not there.
  std::vector<float> Means(const std::string& name) const;
};

// Reads either kind. Throws Error "PATH: rule; got; try" for a file that is neither, holds no
// matrix, or has a sum that is negative or not finite, a count that is negative, no whole number or
// does not divide the sums.
ImportanceMatrix ReadImportanceMatrix(const std::string& path);
// The same from bytes in memory.
ImportanceMatrix ParseImportanceMatrix(const uint8_t* bytes, uint64_t size,
                                       const std::string& where);

// Writes a GGUF file, or the legacy kind if `path` ends in .dat, as llama-imatrix does: matrices by
// name. Legacy files need a chunk_size. Throws Error if nothing was measured or on a count of 0.
void WriteImportanceMatrix(const ImportanceMatrix& matrix, const std::string& path);

}  // namespace lapidary

#endif  // LAPIDARY_QUANT_IMATRIX_H_
