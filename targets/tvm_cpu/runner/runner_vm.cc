// Run a model that edgecc compiled on the device: read .npy inputs, run, write .npy outputs, print the latency.
//
//   runner MODEL.so [NAME=FILE.npy ...] [-o FOLDER] [-n RUNS] [-t THREADS]
//   runner MODEL.so --cases FOLDER [-t THREADS]
//
// FILE may also be raw little-endian data of an input with a fixed shape. Outputs go to FOLDER/NAME.npy. With --cases,
// each of FOLDER/0, FOLDER/1, ... holds input0.npy, input1.npy, ... and gets output0.npy, ...
// model.txt beside the model says what it takes; it is checked before every run.
// Exit codes: 0 done; 1 the model failed; 2 wrong use or input; 3 this CPU lacks instructions of the model's.
// Needs C++17, the headers of tvm_ffi, and libtvm_ffi.so and libtvm_runtime.so at run time.
#include "runner.h"

#include <dlfcn.h>
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/dtype.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>

namespace ffi = tvm::ffi;

namespace {

struct AlignedMemory {  // TVM kernels assume 64-byte alignment
  void AllocData(DLTensor* tensor) {
    size_t bytes = std::max<size_t>(ffi::GetDataSize(*tensor), 64);
    if (posix_memalign(&tensor->data, 64, bytes)) throw std::bad_alloc();
  }
  void FreeData(DLTensor* tensor) { free(tensor->data); }
};

class Model {
 public:
  Model(const std::string& file, int threads)
      : library_(Open(file, threads)), machine_(library_->GetFunction("vm_load_executable").value()().cast<ffi::Module>()) {
    machine_->GetFunction("vm_initialization").value()(static_cast<int>(kDLCPU), 0, 2 /* pooled memory */);
  }

  void Load(const std::vector<Tensor>& inputs) {
    inputs_.clear();
    for (const Tensor& tensor : inputs) {
      ffi::ShapeView shape(tensor.shape.data(), tensor.shape.size());
      inputs_.push_back(ffi::Tensor::FromNDAlloc(AlignedMemory(), shape, ffi::StringToDLDataType(tensor.dtype), DLDevice{kDLCPU, 0}));
      std::memcpy(inputs_.back().data_ptr(), tensor.data.get(), tensor.Bytes());
    }
  }

  void Run() {
    std::vector<ffi::AnyView> arguments(inputs_.begin(), inputs_.end());
    machine_->GetFunction("main").value().CallPacked(arguments.data(), static_cast<int>(arguments.size()), &result_);
  }

  std::vector<Tensor> Results() const {
    std::vector<Tensor> outputs;
    for (const ffi::Any& value : result_.cast<ffi::Array<ffi::Any>>()) {
      ffi::Tensor tensor = value.cast<ffi::Tensor>();
      outputs.emplace_back(ffi::DLDataTypeToString(tensor.dtype()), std::vector<int64_t>(tensor.shape().begin(), tensor.shape().end()));
      std::memcpy(outputs.back().data.get(), tensor.data_ptr(), ffi::GetDataSize(tensor));
    }
    return outputs;
  }

 private:
  static ffi::Module Open(const std::string& file, int threads) {
    dlopen("libtvm_runtime_extra.so", RTLD_NOW | RTLD_GLOBAL);  // sorting, for models that sort; others do not miss it
    ffi::Function::GetGlobalRequired("runtime.config_threadpool")(1, threads);
    return ffi::Module::LoadFromFile(fs::absolute(file).string());  // a bare name would be searched among the system's libraries
  }

  ffi::Module library_, machine_;
  std::vector<ffi::Tensor> inputs_;
  ffi::Any result_;
};

}  // namespace

int main(int argc, char** argv) { return Main<Model>(argc, argv); }
