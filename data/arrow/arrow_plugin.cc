#include "data/arrow/arrow_plugin.h"

#include <arrow/api.h>
#include <arrow/io/api.h>
#include <arrow/ipc/api.h>
#include <arrow/util/float16.h>
#include <parquet/arrow/reader.h>

#include <exception>
#include <utility>

namespace lapidary {
namespace {

using Json = nlohmann::ordered_json;

// As in data/json.h, which this shared object does not link.
constexpr int kRawBytes = 1;
constexpr int kMaxDepth = 64;
// Rows decoded at a time.
constexpr int64_t kBatchRows = 64;

template <class Type>
auto At(const arrow::Array& array, int64_t i) {
  return static_cast<const typename arrow::TypeTraits<Type>::ArrayType&>(array).Value(i);
}

arrow::Result<Json> Cell(const arrow::Array& array, int64_t i, int depth);

template <class Array>
arrow::Result<Json> ListCell(const arrow::Array& array, int64_t i, int depth) {
  const auto& list = static_cast<const Array&>(array);
  Json out = Json::array();
  for (int64_t k = 0; k < list.value_length(i); ++k) {
    ARROW_ASSIGN_OR_RAISE(Json value, Cell(*list.values(), list.value_offset(i) + k, depth + 1));
    out.push_back(std::move(value));
  }
  return out;
}

arrow::Result<Json> StructCell(const arrow::Array& array, int64_t i, int depth) {
  const auto& cells = static_cast<const arrow::StructArray&>(array);
  Json out = Json::object();
  for (int f = 0; f < cells.num_fields(); ++f) {
    ARROW_ASSIGN_OR_RAISE(out[cells.struct_type()->field(f)->name()],
                          Cell(*cells.field(f), i, depth + 1));
  }
  return out;
}

Json Text(std::string_view text) { return std::string(text); }
Json Bytes(std::string_view bytes) { return Json::binary({bytes.begin(), bytes.end()}, kRawBytes); }

arrow::Result<Json> Cell(const arrow::Array& array, int64_t i, int depth) {
  if (depth > kMaxDepth) return arrow::Status::Invalid("columns nested too deeply");
  if (array.IsNull(i)) return Json();
  switch (array.type_id()) {
    case arrow::Type::NA:
      return Json();
    case arrow::Type::BOOL:
      return Json(At<arrow::BooleanType>(array, i));
    case arrow::Type::INT8:
      return Json(At<arrow::Int8Type>(array, i));
    case arrow::Type::INT16:
      return Json(At<arrow::Int16Type>(array, i));
    case arrow::Type::INT32:
      return Json(At<arrow::Int32Type>(array, i));
    case arrow::Type::INT64:
      return Json(At<arrow::Int64Type>(array, i));
    case arrow::Type::UINT8:
      return Json(At<arrow::UInt8Type>(array, i));
    case arrow::Type::UINT16:
      return Json(At<arrow::UInt16Type>(array, i));
    case arrow::Type::UINT32:
      return Json(At<arrow::UInt32Type>(array, i));
    case arrow::Type::UINT64:
      return Json(At<arrow::UInt64Type>(array, i));
    case arrow::Type::HALF_FLOAT:
      return Json(arrow::util::Float16::FromBits(At<arrow::HalfFloatType>(array, i)).ToFloat());
    case arrow::Type::FLOAT:
      return Json(At<arrow::FloatType>(array, i));
    case arrow::Type::DOUBLE:
      return Json(At<arrow::DoubleType>(array, i));
    case arrow::Type::STRING:
      return Text(static_cast<const arrow::StringArray&>(array).GetView(i));
    case arrow::Type::LARGE_STRING:
      return Text(static_cast<const arrow::LargeStringArray&>(array).GetView(i));
    case arrow::Type::STRING_VIEW:
      return Text(static_cast<const arrow::StringViewArray&>(array).GetView(i));
    case arrow::Type::BINARY:
      return Bytes(static_cast<const arrow::BinaryArray&>(array).GetView(i));
    case arrow::Type::LARGE_BINARY:
      return Bytes(static_cast<const arrow::LargeBinaryArray&>(array).GetView(i));
    case arrow::Type::BINARY_VIEW:
      return Bytes(static_cast<const arrow::BinaryViewArray&>(array).GetView(i));
    case arrow::Type::FIXED_SIZE_BINARY:
      return Bytes(static_cast<const arrow::FixedSizeBinaryArray&>(array).GetView(i));
    case arrow::Type::LIST:
    case arrow::Type::MAP:
      return ListCell<arrow::ListArray>(array, i, depth);
    case arrow::Type::LARGE_LIST:
      return ListCell<arrow::LargeListArray>(array, i, depth);
    case arrow::Type::FIXED_SIZE_LIST:
      return ListCell<arrow::FixedSizeListArray>(array, i, depth);
    case arrow::Type::STRUCT:
      return StructCell(array, i, depth);
    case arrow::Type::DICTIONARY: {
      const auto& coded = static_cast<const arrow::DictionaryArray&>(array);
      return Cell(*coded.dictionary(), coded.GetValueIndex(i), depth + 1);
    }
    case arrow::Type::EXTENSION:
      return Cell(*static_cast<const arrow::ExtensionArray&>(array).storage(), i, depth + 1);
    case arrow::Type::DATE32:
    case arrow::Type::DATE64:
    case arrow::Type::TIME32:
    case arrow::Type::TIME64:
    case arrow::Type::TIMESTAMP:
    case arrow::Type::DURATION:
    case arrow::Type::DECIMAL128:
    case arrow::Type::DECIMAL256: {
      ARROW_ASSIGN_OR_RAISE(const auto scalar, array.GetScalar(i));
      return Json(scalar->ToString());
    }
    default:
      return arrow::Status::Invalid("a column of type ", array.type()->ToString());
  }
}

class Reader {
 public:
  Reader(ArrowRowCallback row, void* context) : row_(row), context_(context) {}

  arrow::Status File(const char* path) {
    ARROW_ASSIGN_OR_RAISE(const auto file, arrow::io::ReadableFile::Open(path));
    ARROW_ASSIGN_OR_RAISE(const auto head, file->ReadAt(0, 6));
    const std::string_view magic(reinterpret_cast<const char*>(head->data()), head->size());
    if (magic.starts_with("PAR1")) return Parquet(file);
    if (magic == "ARROW1") {
      ARROW_ASSIGN_OR_RAISE(const auto reader, arrow::ipc::RecordBatchFileReader::Open(file));
      for (int b = 0; b < reader->num_record_batches() && !stopped_; ++b) {
        ARROW_ASSIGN_OR_RAISE(const auto batch, reader->ReadRecordBatch(b));
        ARROW_RETURN_NOT_OK(Batch(*batch));
      }
      return arrow::Status::OK();
    }
    ARROW_RETURN_NOT_OK(file->Seek(0));
    ARROW_ASSIGN_OR_RAISE(const auto reader, arrow::ipc::RecordBatchStreamReader::Open(file));
    return Stream(*reader);
  }

 private:
  arrow::Status Parquet(const std::shared_ptr<arrow::io::ReadableFile>& file) {
    parquet::arrow::FileReaderBuilder builder;
    ARROW_RETURN_NOT_OK(builder.Open(file));
    parquet::ArrowReaderProperties properties;
    properties.set_batch_size(kBatchRows);
    properties.set_pre_buffer(false);
    properties.set_use_threads(false);
    builder.properties(properties);
    std::unique_ptr<parquet::arrow::FileReader> reader;
    ARROW_RETURN_NOT_OK(builder.Build(&reader));
    ARROW_ASSIGN_OR_RAISE(const auto batches, reader->GetRecordBatchReader());
    return Stream(*batches);
  }

  arrow::Status Stream(arrow::RecordBatchReader& reader) {
    std::shared_ptr<arrow::RecordBatch> batch;
    while (!stopped_) {
      ARROW_RETURN_NOT_OK(reader.ReadNext(&batch));
      if (batch == nullptr) break;
      ARROW_RETURN_NOT_OK(Batch(*batch));
    }
    return arrow::Status::OK();
  }

  arrow::Status Batch(const arrow::RecordBatch& batch) {
    // Offsets and indices inside the buffers, whatever the file says.
    ARROW_RETURN_NOT_OK(batch.ValidateFull());
    for (int64_t i = 0; i < batch.num_rows() && !stopped_; ++i) {
      Json row = Json::object();
      for (int c = 0; c < batch.num_columns(); ++c) {
        ARROW_ASSIGN_OR_RAISE(row[batch.column_name(c)], Cell(*batch.column(c), i, 0));
      }
      stopped_ = !row_(context_, std::move(row));
    }
    return arrow::Status::OK();
  }

  ArrowRowCallback row_;
  void* context_;
  bool stopped_ = false;
};

}  // namespace
}  // namespace lapidary

extern "C" __attribute__((visibility("default"))) bool lapidary_read_arrow_1(
    const char* path, lapidary::ArrowRowCallback row, void* context, std::string* error) {
  try {
    const arrow::Status status = lapidary::Reader(row, context).File(path);
    if (status.ok()) return true;
    *error = status.message();
  } catch (const std::exception& e) {
    *error = e.what();
  }
  return false;
}
