// Run a model that edgecc compiled on the device: read .npy inputs, run, write .npy outputs, print the latency.
//
//   runner MODEL.so [NAME=FILE.npy ...] [-o FOLDER] [-n RUNS] [-t THREADS]
//   runner MODEL.so --cases FOLDER [-t THREADS]
//
// FILE may also be raw little-endian data of an input with a fixed shape. Outputs go to FOLDER/NAME.npy. With --cases,
// each of FOLDER/0, FOLDER/1, ... holds input0.npy, input1.npy, ... and gets output0.npy, ...
// model.txt beside the model says what it takes; it is checked before every run.
// Exit codes: 0 done; 1 the model failed; 2 wrong use or input; 3 this CPU lacks instructions of the model's.
// Needs C++17 and edgecc_model.h; no library but the C and C++ ones.
#include "runner.h"

#include <dlfcn.h>

#include "edgecc_model.h"

namespace {

constexpr const char* kDtypes[] = {"float32", "float64", "float16", "bfloat16", "int8", "uint8", "int16", "int32", "int64", "bool"};

class Model {
 public:
  Model(const std::string& file, int threads) : library_(dlopen(fs::absolute(file).c_str(), RTLD_NOW | RTLD_LOCAL)) {
    if (!library_) throw std::runtime_error(dlerror());
    const edgecc_model* model = Symbol<decltype(&edgecc_model_loaded)>("edgecc_model_loaded")();
    run_ = Symbol<decltype(&edgecc_model_run)>("edgecc_model_run");
    shape_ = Symbol<decltype(&edgecc_model_output_shape)>("edgecc_model_output_shape");
    error_ = Symbol<decltype(&edgecc_model_error)>("edgecc_model_error");
    close_ = Symbol<decltype(&edgecc_model_close)>("edgecc_model_close");
    auto output = Symbol<decltype(&edgecc_model_output)>("edgecc_model_output");
    int32_t count = Symbol<decltype(&edgecc_model_outputs)>("edgecc_model_outputs")(model);
    for (int32_t i = 0; i < count; ++i) ports_.push_back(output(model, i));
    size_t bytes = Symbol<decltype(&edgecc_model_memory)>("edgecc_model_memory")(model, threads);
    void* memory = nullptr;
    if (posix_memalign(&memory, EDGECC_ALIGNMENT, std::max<size_t>(bytes, 64))) throw std::bad_alloc();
    memory_ = std::shared_ptr<void>(memory, free);
    edgecc_status status = Symbol<decltype(&edgecc_model_init)>("edgecc_model_init")(model, threads, memory, bytes, &instance_);
    if (status) throw std::runtime_error(Symbol<decltype(&edgecc_status_text)>("edgecc_status_text")(status));
  }

  ~Model() {
    if (instance_) close_(instance_);
  }

  void Load(const std::vector<Tensor>& inputs) {
    inputs_ = inputs;
    given_.clear(), taken_.clear(), outputs_.clear();
    for (const Tensor& tensor : inputs_) given_.push_back(View(tensor));
    for (size_t i = 0; i < ports_.size(); ++i) {
      std::vector<int64_t> shape(ports_[i]->rank);
      Check(shape_(instance_, given_.data(), int32_t(given_.size()), int32_t(i), shape.data()));
      outputs_.emplace_back(kDtypes[ports_[i]->dtype], shape);
    }
    for (const Tensor& tensor : outputs_) taken_.push_back(View(tensor));
  }

  void Run() { Check(run_(instance_, given_.data(), int32_t(given_.size()), taken_.data(), int32_t(taken_.size()))); }

  std::vector<Tensor> Results() const { return outputs_; }

 private:
  template <class Function>
  Function Symbol(const char* name) const {
    void* symbol = dlsym(library_, name);
    if (!symbol) throw std::runtime_error("the library has no " + std::string(name) + ": is it a model.so of edgecc?");
    return reinterpret_cast<Function>(symbol);
  }

  static edgecc_tensor View(const Tensor& tensor) {
    int32_t dtype = int32_t(std::find(std::begin(kDtypes), std::end(kDtypes), tensor.dtype) - std::begin(kDtypes));
    return {tensor.data.get(), tensor.shape.data(), int32_t(tensor.shape.size()), dtype, tensor.Bytes()};
  }

  void Check(edgecc_status status) const {
    if (status) throw std::runtime_error(error_(instance_));
  }

  void* library_;
  decltype(&edgecc_model_run) run_;
  decltype(&edgecc_model_output_shape) shape_;
  decltype(&edgecc_model_error) error_;
  decltype(&edgecc_model_close) close_;
  std::vector<const edgecc_port*> ports_;
  std::shared_ptr<void> memory_;
  edgecc_instance* instance_ = nullptr;
  std::vector<Tensor> inputs_, outputs_;
  std::vector<edgecc_tensor> given_, taken_;
};

}  // namespace

int main(int argc, char** argv) { return Main<Model>(argc, argv); }
