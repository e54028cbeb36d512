#include "train/state_file.h"

#include <hdf5.h>

#include <cstring>
#include <vector>

#include "autograd/base/file.h"

namespace lapidary {
namespace {

// An HDF5 handle with its closing function.
class Handle {
 public:
  Handle(hid_t id, herr_t (*close)(hid_t), const std::string& where, const char* what)
      : id_(id), close_(close) {
    LAPIDARY_CHECK(id >= 0, where, ": must be a sound HDF5 file; got an error at ", what);
  }
  ~Handle() { close_(id_); }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  operator hid_t() const { return id_; }  // NOLINT: passed to the C interface everywhere

 private:
  hid_t id_;
  herr_t (*close_)(hid_t);
};

void Check(bool good, const std::string& where, const char* what) {
  LAPIDARY_CHECK(good, where, ": must be a sound HDF5 file; got an error at ", what);
}

void Quiet() { H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr); }

// A new file in memory.
hid_t MemoryAccess(const std::string& where) {
  const hid_t access = H5Pcreate(H5P_FILE_ACCESS);
  Check(access >= 0 && H5Pset_fapl_core(access, size_t{1} << 20, false) >= 0, where, "memory");
  return access;
}

// A file that is only read: also where locks are not to be had.
hid_t ReadAccess(const std::string& where) {
  const hid_t access = H5Pcreate(H5P_FILE_ACCESS);
  Check(access >= 0 && H5Pset_file_locking(access, false, true) >= 0, where, "memory");
  return access;
}

// Write times would make two equal checkpoints differ.
hid_t WithoutTimes() {
  const hid_t properties = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_obj_track_times(properties, false);
  return properties;
}

void WriteDataset(hid_t file, const std::string& path, const std::string& name, hid_t stored,
                  hid_t memory, hid_t space, const void* data) {
  LAPIDARY_CHECK(name.find('/') == std::string::npos && !name.empty(), path,
                 ": names must be without '/'; got '", name, "'");
  const Handle properties(WithoutTimes(), H5Pclose, path, name.c_str());
  const Handle set(
      H5Dcreate2(file, name.c_str(), stored, space, H5P_DEFAULT, properties, H5P_DEFAULT), H5Dclose,
      path, name.c_str());
  Check(H5Dwrite(set, memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) >= 0, path, name.c_str());
}

hid_t TextType(size_t size) {
  const hid_t type = H5Tcopy(H5T_C_S1);
  H5Tset_size(type, size);
  H5Tset_strpad(type, H5T_STR_NULLPAD);
  H5Tset_cset(type, H5T_CSET_UTF8);
  return type;
}

void ReadDataset(hid_t file, const std::string& path, const std::string& name, StateFile* state) {
  const Handle set(H5Dopen2(file, name.c_str(), H5P_DEFAULT), H5Dclose, path, name.c_str());
  const Handle space(H5Dget_space(set), H5Sclose, path, name.c_str());
  const Handle type(H5Dget_type(set), H5Tclose, path, name.c_str());
  hsize_t dims[H5S_MAX_RANK] = {};
  const int rank = H5Sget_simple_extent_ndims(space);
  LAPIDARY_CHECK(rank >= 0 && rank <= Shape::kMaxRank, path, ": '", name,
                 "' must have at most 4 axes; got ", rank);
  Check(H5Sget_simple_extent_dims(space, dims, nullptr) >= 0, path, name.c_str());
  Shape shape;
  shape.rank = rank;
  int64_t size = 1;
  for (int i = 0; i < rank; ++i) {
    int64_t product = 0;
    LAPIDARY_CHECK(dims[i] < (hsize_t{1} << 40) &&
                       !__builtin_mul_overflow(size, static_cast<int64_t>(dims[i]), &product) &&
                       product < (int64_t{1} << 40),
                   path, ": '", name, "' must have fewer than 2^40 values; got more");
    shape.dims[i] = static_cast<int64_t>(dims[i]);
    size = product;
  }
  switch (H5Tget_class(type)) {
    case H5T_FLOAT: {
      // What is declared must be there: the data of a hostile file need not exist.
      Check(H5Dget_storage_size(set) >= static_cast<hsize_t>(size) * H5Tget_size(type), path,
            name.c_str());
      Tensor tensor(shape);
      Check(H5Dread(set, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, tensor.data()) >= 0, path,
            name.c_str());
      state->tensors[name] = tensor;
      return;
    }
    case H5T_INTEGER: {
      if (rank > 0) {
        const size_t width = H5Tget_size(type);
        LAPIDARY_CHECK(width <= 2 && H5Tget_sign(type) == H5T_SGN_NONE, path, ": '", name,
                       "' must be one integer, or an array of uint8 or uint16; got ", shape);
        Check(H5Dget_storage_size(set) >= static_cast<hsize_t>(size) * width, path, name.c_str());
        Tensor tensor(shape, width == 2 ? DType::kBf16 : DType::kI8);
        Check(H5Dread(set, width == 2 ? H5T_NATIVE_UINT16 : H5T_NATIVE_UINT8, H5S_ALL, H5S_ALL,
                      H5P_DEFAULT, tensor.data<uint8_t>()) >= 0,
              path, name.c_str());
        state->tensors[name] = tensor;
        return;
      }
      int64_t value = 0;
      Check(H5Dread(set, H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, &value) >= 0, path,
            name.c_str());
      state->integers[name] = value;
      return;
    }
    case H5T_STRING: {
      const size_t bytes = H5Tget_size(type);
      LAPIDARY_CHECK(rank == 0 && H5Tis_variable_str(type) == 0 && bytes < (size_t{1} << 28), path,
                     ": '", name, "' must be one text; got something else");
      std::string text(bytes, '\0');
      Check(H5Dread(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, text.data()) >= 0, path,
            name.c_str());
      text.resize(text.find_last_not_of('\0') + 1);
      state->texts[name] = text;
      return;
    }
    default:
      throw Error(StrCat(path, ": '", name,
                         "' must be floats, an integer or a text; got another "
                         "type"));
  }
}

herr_t CollectName(hid_t, const char* name, const H5L_info_t*, void* names) {
  static_cast<std::vector<std::string>*>(names)->push_back(name);
  return 0;
}

}  // namespace

void WriteStateFile(const std::string& path, const StateFile& state) {
  Quiet();
  {
    const Handle access(MemoryAccess(path), H5Pclose, path, "memory");
    const Handle file(H5Fcreate("state", H5F_ACC_TRUNC, H5P_DEFAULT, access), H5Fclose, path,
                      "memory");
    for (const auto& [name, tensor] : state.tensors) {
      hsize_t dims[Shape::kMaxRank];
      for (int i = 0; i < tensor.shape().rank; ++i) dims[i] = tensor.shape().dims[i];
      const Handle space(H5Screate_simple(tensor.shape().rank, dims, nullptr), H5Sclose, path,
                         name.c_str());
      switch (tensor.dtype()) {
        case DType::kBf16:
          WriteDataset(file, path, name, H5T_STD_U16LE, H5T_NATIVE_UINT16, space,
                       tensor.data<uint16_t>());
          break;
        case DType::kI8:
          WriteDataset(file, path, name, H5T_STD_U8LE, H5T_NATIVE_UINT8, space,
                       tensor.data<uint8_t>());
          break;
        default:
          WriteDataset(file, path, name, H5T_IEEE_F32LE, H5T_NATIVE_FLOAT, space, tensor.data());
      }
    }
    const Handle scalar(H5Screate(H5S_SCALAR), H5Sclose, path, "memory");
    for (const auto& [name, value] : state.integers) {
      WriteDataset(file, path, name, H5T_STD_I64LE, H5T_NATIVE_INT64, scalar, &value);
    }
    for (const auto& [name, text] : state.texts) {
      const std::string padded = text.empty() ? std::string(1, '\0') : text;
      const Handle type(TextType(padded.size()), H5Tclose, path, name.c_str());
      WriteDataset(file, path, name, type, type, scalar, padded.data());
    }
    Check(H5Fflush(file, H5F_SCOPE_GLOBAL) >= 0, path, "memory");
    // Straight from the driver's memory: the states of a large model are there once more as it is.
    const ssize_t bytes = H5Fget_file_image(file, nullptr, 0);
    void* memory = nullptr;
    Check(bytes > 0 && H5Fget_vfd_handle(file, H5P_DEFAULT, &memory) >= 0 && memory, path,
          "memory");
    WriteFile(path, std::string_view(*static_cast<const char* const*>(memory),
                                     static_cast<size_t>(bytes)));
  }
}

StateFile ReadStateFile(const std::string& path) {
  Quiet();
  {
    const auto bytes = MappedFile::Open(path);
    LAPIDARY_CHECK(bytes->size() > 8 && std::memcmp(bytes->data(), "\x89HDF\r\n\x1a\n", 8) == 0,
                   path, ": must be an HDF5 file; got another signature");
  }
  const Handle access(ReadAccess(path), H5Pclose, path, "memory");
  const Handle file(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access), H5Fclose, path, "its header");
  std::vector<std::string> names;
  Check(H5Literate(file, H5_INDEX_NAME, H5_ITER_INC, nullptr, CollectName, &names) >= 0, path,
        "the list of names");
  StateFile state;
  for (const std::string& name : names) ReadDataset(file, path, name, &state);
  return state;
}

}  // namespace lapidary
