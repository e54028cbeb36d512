// What llama.cpp makes of pictures for Gemma 4 unified, by its own code: sizes and pixels for
// tests/golden/media/llama_resize.json. Built beside llama.cpp's sources, not part of the product:
//   g++ -std=c++17 -O2 -I LLAMA/tools/mtmd -I LLAMA/include -I LLAMA/ggml/include \
//     -I LLAMA/ggml/src tests/oracle/llama_resize.cc -L LIB -lmtmd -lllama -lggml -lggml-base \
//     -Wl,-rpath,LIB -o llama_resize && ./llama_resize > tests/golden/media/llama_resize.json
// LLAMA: its folder, LIB: its libraries. A picture's byte i (of height * width * 3) is
//   (i * 2654435761 mod 2^32) >> 24, then smoothed: (that + 3 * ((x * 5 + y * 3) & 255)) / 4
// Hashes are FNV-1a (64 bits) of all bytes of the result; "first" are its middle row's first 24.
#include <cstdint>
#include <cstdio>

#include "mtmd-image.cpp"

static std::vector<uint8_t> Picture(int width, int height) {
  std::vector<uint8_t> pixels;
  pixels.reserve(static_cast<size_t>(width) * height * 3);
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      for (int c = 0; c < 3; ++c) {
        const uint32_t i = static_cast<uint32_t>(pixels.size());
        const uint32_t noise = (i * 2654435761u) >> 24;
        pixels.push_back(static_cast<uint8_t>((noise + 3 * ((x * 5 + y * 3) & 255)) / 4));
      }
    }
  }
  return pixels;
}

int main() {
  const int sizes[][2] = {{640, 480}, {224, 224}, {1000, 1000}, {48, 48},     {47, 49},
                          {96, 960},  {1, 1},     {300, 7},     {2000, 1500}, {1600, 240},
                          {383, 511}, {720, 720}, {1920, 1080}, {13, 2400}};
  const int patch = 48;
  std::printf("{\"format\": \"sizes are width, height\", \"cases\": [\n");
  bool first = true;
  for (const auto& size : sizes) {
    for (const int most : {1120, 280}) {
      clip_image_u8 source, resized;
      source.set_size({size[0], size[1]}, false);
      source.cpy_buf(Picture(size[0], size[1]));
      const clip_image_size target = img_tool::calc_size_preserved_ratio(
          {size[0], size[1]}, {patch, 70 * patch * patch, most * patch * patch, 0});
      img_tool::resize(source, resized, target, RESIZE_ALGO_BICUBIC, PAD_CEIL, {0, 0, 0});
      const std::vector<uint8_t>& bytes = resized.get_ro_buf();
      uint64_t hash = 1469598103934665603ull;
      for (const uint8_t b : bytes) hash = (hash ^ b) * 1099511628211ull;
      std::printf(
          "%s{\"size\": [%d, %d], \"budget\": %d, \"target\": [%d, %d], \"tokens\": %d, "
          "\"fnv1a\": \"%016llx\", \"first\": [",
          first ? "" : ",\n", size[0], size[1], most, target.width, target.height,
          target.width / patch * (target.height / patch), (unsigned long long)hash);
      const size_t row = static_cast<size_t>(target.height / 2) * target.width * 3;
      for (int i = 0; i < 24; ++i) std::printf("%s%d", i ? ", " : "", bytes[row + i]);
      std::printf("]}");
      first = false;
    }
  }
  std::printf("\n]}\n");
}
