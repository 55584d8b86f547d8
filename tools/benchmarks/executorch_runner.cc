// Under the emulator: run a program on ExecuTorch. `executorch_runner MODEL.pte INPUTS OUTPUT RUNS`.
//
// INPUTS: int32 count, then for each input int32 is_int64, int32 rank, int32 sizes, data. OUTPUT: the first output, raw.
// Two runs to warm up, then RUNS runs between two system calls MARK (targets/tvm_cpu/measure/counter.c).
#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <vector>

using executorch::aten::ScalarType;
using executorch::extension::TensorPtr;
using executorch::runtime::EValue;

constexpr long kMark = 0x65646765;

int32_t ReadInt(std::istream& stream) {
  int32_t value = 0;
  stream.read(reinterpret_cast<char*>(&value), sizeof value);
  return value;
}

int main(int, char** words) {
  std::ifstream stream(words[2], std::ios::binary);
  std::vector<std::vector<char>> memory(ReadInt(stream));
  std::vector<TensorPtr> tensors;
  std::vector<EValue> inputs;
  for (std::vector<char>& data : memory) {
    bool integer = ReadInt(stream);
    std::vector<executorch::aten::SizesType> sizes(ReadInt(stream));
    size_t bytes = integer ? 8 : 4;
    for (auto& size : sizes) bytes *= size = ReadInt(stream);
    data.resize(bytes);
    stream.read(data.data(), bytes);
    tensors.push_back(executorch::extension::from_blob(data.data(), sizes, integer ? ScalarType::Long : ScalarType::Float));
    inputs.push_back(tensors.back());
  }
  executorch::extension::Module model(words[1]);
  auto run = [&] {
    auto result = model.forward(inputs);
    if (!result.ok()) {
      std::fprintf(stderr, "error %d\n", static_cast<int>(result.error()));
      _exit(1);
    }
    return result.get();
  };
  run();
  auto output = run()[0].toTensor();
  std::ofstream(words[3], std::ios::binary).write(static_cast<const char*>(output.const_data_ptr()), output.nbytes());
  syscall(kMark);
  for (int i = 0; i < std::atoi(words[4]); i++) run();
  syscall(kMark);
  _exit(0);
}
