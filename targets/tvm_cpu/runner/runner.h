// What the runners share: model.txt, .npy files, the command line, and the cases of a test.
//
// A runner includes this and defines
//
//   class Model {
//     Model(const std::string& file, int threads);   // load the library
//     void Load(const std::vector<Tensor>& inputs);  // take the inputs, which model.txt has been compared with
//     void Run();                                    // what is timed
//     std::vector<Tensor> Results();
//   };
//
// and `int main(int argc, char** argv) { return Main<Model>(argc, argv); }`. Needs C++17.
#pragma once
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <new>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace fs = std::filesystem;

struct InputError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// ---- model.txt

struct Port {
  std::string name, dtype;
  std::vector<std::string> sizes;
};

struct Dim {
  int64_t lower = 0, upper = INT64_MAX;
};

struct Interface {
  std::string cpu;
  std::map<std::string, Dim> dims;
  std::vector<Port> inputs, outputs;
};

inline std::string Join(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : ", ") + word;
  return "[" + text + "]";
}

inline Interface ReadInterface(const fs::path& file) {
  std::ifstream stream(file);
  if (!stream) throw InputError(file.string() + " is missing; it is written beside the model");
  Interface interface;
  for (std::string line; std::getline(stream, line);) {
    std::istringstream words(line);
    std::string kind;
    words >> kind;
    if (kind == "cpu") {
      words >> interface.cpu;
    } else if (kind == "dim") {
      std::string name, upper;
      Dim dim;
      words >> name >> dim.lower >> upper;
      if (upper != "-") dim.upper = std::stoll(upper);
      interface.dims[name] = dim;
    } else if (kind == "input" || kind == "output") {
      Port port;
      size_t rank = 0;
      words >> port.dtype >> rank;
      port.sizes.resize(rank);
      for (std::string& size : port.sizes) words >> size;
      std::getline(words >> std::ws, port.name);
      (kind == "input" ? interface.inputs : interface.outputs).push_back(port);
    }
  }
  return interface;
}

inline bool IsNumber(const std::string& text) { return !text.empty() && text.find_first_not_of("0123456789") == std::string::npos; }

// Compare one size with its description, `12`, `batch` or `2*batch+1`, and bind the dimension it names.
inline void CheckSize(const Port& port, size_t axis, int64_t size, std::map<std::string, int64_t>* bound) {
  const std::string& want = port.sizes[axis];
  std::string found = "input " + port.name + " has size " + std::to_string(size) + " at axis " + std::to_string(axis) + ", want ";
  if (want == "?") return;
  if (IsNumber(want)) {
    if (std::stoll(want) != size) throw InputError(found + want);
    return;
  }
  size_t star = want.find('*'), sign = want.find_first_of("+-");
  int64_t scale = star == std::string::npos ? 1 : std::stoll(want.substr(0, star));
  int64_t offset = sign == std::string::npos ? 0 : std::stoll(want.substr(sign));
  size_t start = star == std::string::npos ? 0 : star + 1;
  std::string name = want.substr(start, sign == std::string::npos ? sign : sign - start);
  if ((size - offset) % scale) throw InputError(found + want);
  int64_t value = (size - offset) / scale;
  auto [entry, added] = bound->emplace(name, value);
  if (!added && entry->second != value) throw InputError(found + want + " where " + name + " is " + std::to_string(entry->second));
}

inline void CheckDims(const Interface& interface, const std::map<std::string, int64_t>& bound) {
  for (const auto& [name, value] : bound) {
    auto dim = interface.dims.find(name);
    if (dim == interface.dims.end() || (value >= dim->second.lower && value <= dim->second.upper)) continue;
    std::string upper = dim->second.upper == INT64_MAX ? "" : std::to_string(dim->second.upper);
    throw InputError("dimension " + name + " is " + std::to_string(value) + ", the model was compiled for " + std::to_string(dim->second.lower) + ".." + upper);
  }
}

// ---- tensors and .npy files (format of numpy.lib.format, versions 1 to 3)

struct Tensor {  // contiguous and row-major; the data is aligned to 64 bytes
  std::string dtype;
  std::vector<int64_t> shape;
  std::shared_ptr<void> data;

  Tensor(const std::string& dtype, const std::vector<int64_t>& shape);
  size_t Bytes() const;
};

inline const std::map<std::string, std::string> kDescriptions = {
    {"float64", "<f8"}, {"float32", "<f4"}, {"float16", "<f2"}, {"int64", "<i8"}, {"int32", "<i4"},
    {"int16", "<i2"},   {"int8", "|i1"},    {"uint8", "|u1"},   {"bool", "|b1"},
};

inline size_t Width(const std::string& dtype) {
  auto description = kDescriptions.find(dtype);
  if (description == kDescriptions.end()) throw InputError("tensors of " + dtype + " cannot be held in .npy files");
  return description->second[2] - '0';
}

inline size_t Tensor::Bytes() const {
  size_t bytes = Width(dtype);
  for (int64_t size : shape) bytes *= size;
  return bytes;
}

inline Tensor::Tensor(const std::string& dtype, const std::vector<int64_t>& shape) : dtype(dtype), shape(shape) {
  void* memory = nullptr;
  if (posix_memalign(&memory, 64, std::max<size_t>(Bytes(), 64))) throw std::bad_alloc();
  data = std::shared_ptr<void>(memory, free);
}

inline std::string DtypeOf(const std::string& description) {
  for (const auto& [dtype, text] : kDescriptions)
    if (text == description) return dtype;
  return "numpy type " + description;
}

// The text after `'key':` in the header's dict.
inline std::string HeaderValue(const std::string& header, const std::string& key, const std::string& file) {
  size_t at = header.find("'" + key + "'");
  at = at == std::string::npos ? at : header.find(':', at);
  if (at == std::string::npos) throw InputError(file + " is a damaged .npy file: no " + key + " in its header");
  at = header.find_first_not_of(' ', at + 1);
  if (at == std::string::npos) throw InputError(file + " is a damaged .npy file: its header ends early");
  size_t end = header[at] == '(' ? header.find(')', at) : header[at] == '\'' ? header.find('\'', at + 1) : header.find_first_of(",}", at);
  if (end == std::string::npos) throw InputError(file + " is a damaged .npy file: its header ends early");
  bool bracketed = header[at] == '(' || header[at] == '\'';
  return header.substr(at + bracketed, end - at - bracketed);
}

struct Content {
  std::string dtype;
  std::vector<int64_t> shape;
  size_t offset;
};

inline Content ParseNpy(const std::string& bytes, const std::string& file) {
  size_t length_bytes = bytes.size() > 6 && bytes[6] >= 2 ? 4 : 2;
  if (bytes.size() < 8 + length_bytes) throw InputError(file + " is a damaged .npy file: it has " + std::to_string(bytes.size()) + " bytes");
  size_t length = 0;
  for (size_t i = 0; i < length_bytes; ++i) length |= size_t(uint8_t(bytes[8 + i])) << (8 * i);
  size_t offset = 8 + length_bytes + length;
  if (offset > bytes.size()) throw InputError(file + " is a damaged .npy file: its header is cut off");
  std::string header = bytes.substr(8 + length_bytes, length);
  if (HeaderValue(header, "fortran_order", file).substr(0, 4) == "True")
    throw InputError(file + " is in Fortran order; save numpy.ascontiguousarray(x) instead");
  Content content{DtypeOf(HeaderValue(header, "descr", file)), {}, offset};
  std::istringstream sizes(HeaderValue(header, "shape", file));
  for (std::string size; std::getline(sizes, size, ',');) {
    size.erase(0, size.find_first_not_of(' ') == std::string::npos ? size.size() : size.find_first_not_of(' '));
    if (size.empty()) continue;
    if (!IsNumber(size) || size.size() > 15) throw InputError(file + " is a damaged .npy file: its shape has " + size);
    content.shape.push_back(std::stoll(size));
  }
  return content;
}

inline Content RawContent(const Port& port, const std::string& file) {
  Content content{port.dtype, {}, 0};
  for (const std::string& size : port.sizes) {
    if (!IsNumber(size)) throw InputError(file + " is no .npy file, and raw data has no shape for " + port.name + " " + Join(port.sizes));
    content.shape.push_back(std::stoll(size));
  }
  return content;
}

inline Tensor ReadInput(const Port& port, const std::string& file, std::map<std::string, int64_t>* bound) {
  std::ifstream stream(file, std::ios::binary);
  if (!stream || fs::is_directory(file)) throw InputError("cannot read " + file + " for input " + port.name);
  std::string bytes((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
  Content content = bytes.compare(0, 6, "\x93NUMPY") == 0 ? ParseNpy(bytes, file) : RawContent(port, file);
  if (content.dtype != port.dtype) throw InputError(file + " is " + content.dtype + ", input " + port.name + " wants " + port.dtype);
  if (content.shape.size() != port.sizes.size())
    throw InputError(file + " has rank " + std::to_string(content.shape.size()) + ", input " + port.name + " wants " + Join(port.sizes));
  for (size_t axis = 0; axis < content.shape.size(); ++axis) CheckSize(port, axis, content.shape[axis], bound);
  size_t want = Width(port.dtype);
  for (int64_t size : content.shape) want *= size;
  if (bytes.size() - content.offset != want)
    throw InputError(file + " holds " + std::to_string(bytes.size() - content.offset) + " bytes of data, input " + port.name + " wants " + std::to_string(want));
  Tensor tensor(port.dtype, content.shape);
  std::memcpy(tensor.data.get(), bytes.data() + content.offset, want);
  return tensor;
}

inline void WriteNpy(const fs::path& file, const Tensor& tensor) {
  std::string shape;
  for (int64_t size : tensor.shape) shape += std::to_string(size) + ",";
  std::string header = "{'descr': '" + kDescriptions.at(tensor.dtype) + "', 'fortran_order': False, 'shape': (" + shape + "), }";
  header += std::string(64 - (10 + header.size() + 1) % 64, ' ') + "\n";
  std::ofstream stream(file, std::ios::binary);
  stream.write("\x93NUMPY\x01\x00", 8).put(char(header.size() & 255)).put(char(header.size() >> 8)) << header;
  stream.write(static_cast<const char*>(tensor.data.get()), tensor.Bytes());
  stream.close();
  if (!stream) throw InputError("cannot write " + file.string());
}

// ---- running

inline std::vector<Tensor> ReadInputs(const Interface& interface, const std::vector<std::string>& files) {
  std::map<std::string, int64_t> bound;
  std::vector<Tensor> inputs;
  for (size_t i = 0; i < files.size(); ++i) inputs.push_back(ReadInput(interface.inputs[i], files[i], &bound));
  CheckDims(interface, bound);
  return inputs;
}

struct Arguments {
  std::string model, output, cases;
  std::map<std::string, std::string> inputs;
  int runs = 1, threads = 1;
};

inline int Positive(const std::string& flag, const std::string& text) {
  if (!IsNumber(text) || text.size() > 9 || std::stoi(text) < 1) throw InputError(flag + " wants a positive number, not " + text);
  return std::stoi(text);
}

inline Arguments Parse(int argc, char** argv) {
  Arguments arguments;
  for (int i = 1; i < argc; ++i) {
    std::string word = argv[i];
    bool flag = word == "-o" || word == "-n" || word == "-t" || word == "--cases";
    if (flag && i + 1 == argc) throw InputError(word + " wants a value");
    std::string value = flag ? argv[++i] : "";
    size_t equals = word.find('=');
    if (word == "-o") arguments.output = value;
    else if (word == "-n") arguments.runs = Positive(word, value);
    else if (word == "-t") arguments.threads = Positive(word, value);
    else if (word == "--cases") arguments.cases = value;
    else if (arguments.model.empty()) arguments.model = word;
    else if (equals != std::string::npos) arguments.inputs[word.substr(0, equals)] = word.substr(equals + 1);
    else throw InputError("unknown argument " + word);
  }
  if (arguments.model.empty()) throw InputError("usage: runner MODEL.so [NAME=FILE.npy ...] [-o FOLDER] [-n RUNS] [-t THREADS] | runner MODEL.so --cases FOLDER");
  if (!fs::exists(arguments.model)) throw InputError("there is no model " + arguments.model);
  return arguments;
}

template <class Model>
std::vector<Tensor> Results(Model* model, const Interface& interface) {
  std::vector<Tensor> outputs = model->Results();
  if (outputs.size() != interface.outputs.size()) throw std::runtime_error("the model gave " + std::to_string(outputs.size()) + " outputs");
  return outputs;
}

template <class Model>
void RunCases(Model* model, const Interface& interface, const fs::path& folder) {
  for (int number = 0; fs::exists(folder / std::to_string(number)); ++number) {
    fs::path place = folder / std::to_string(number);
    std::vector<std::string> files;
    for (size_t i = 0; i < interface.inputs.size(); ++i) files.push_back((place / ("input" + std::to_string(i) + ".npy")).string());
    model->Load(ReadInputs(interface, files));
    model->Run();
    std::vector<Tensor> outputs = Results(model, interface);
    for (size_t i = 0; i < outputs.size(); ++i) WriteNpy(place / ("output" + std::to_string(i) + ".npy"), outputs[i]);
  }
}

inline std::string FileName(const std::string& name, size_t index) {
  bool plain = !name.empty() && name[0] != '.';
  for (char c : name) plain = plain && (isalnum(static_cast<unsigned char>(c)) || strchr("._-", c));
  return (plain ? name : "output" + std::to_string(index)) + ".npy";
}

template <class Model>
void RunOnce(Model* model, const Interface& interface, const Arguments& arguments) {
  std::vector<std::string> files;
  for (const Port& port : interface.inputs) {
    auto given = arguments.inputs.find(port.name);
    if (given == arguments.inputs.end()) throw InputError("input " + port.name + " is missing: give " + port.name + "=FILE.npy, " + port.dtype + " " + Join(port.sizes));
    files.push_back(given->second);
  }
  for (const auto& [name, file] : arguments.inputs) {
    auto same = [&name = name](const Port& port) { return port.name == name; };
    const auto& ports = interface.inputs;
    if (std::none_of(ports.begin(), ports.end(), same)) throw InputError("the model has no input " + name);
  }
  model->Load(ReadInputs(interface, files));
  std::vector<double> milliseconds;
  for (int run = 0; run < arguments.runs; ++run) {
    auto start = std::chrono::steady_clock::now();
    model->Run();
    milliseconds.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
  }
  std::sort(milliseconds.begin(), milliseconds.end());
  std::printf("latency_ms median %.3f min %.3f max %.3f runs %d threads %d\n", milliseconds[milliseconds.size() / 2], milliseconds.front(),
              milliseconds.back(), arguments.runs, arguments.threads);
  if (arguments.output.empty()) return;
  fs::create_directories(arguments.output);
  std::vector<Tensor> outputs = Results(model, interface);
  for (size_t i = 0; i < outputs.size(); ++i) WriteNpy(fs::path(arguments.output) / FileName(interface.outputs[i].name, i), outputs[i]);
}

inline void OnIllegalInstruction(int) {
  static const char kMessage[] = "error: this CPU lacks an instruction that the model was compiled for; see `cpu` in model.txt and compile for this one\n";
  if (write(STDERR_FILENO, kMessage, sizeof kMessage - 1) < 0) _exit(3);
  _exit(3);
}

template <class Model>
int Main(int argc, char** argv) {
  signal(SIGILL, OnIllegalInstruction);
  try {
    Arguments arguments = Parse(argc, argv);
    Interface interface = ReadInterface(fs::path(arguments.model).replace_extension(".txt"));
    Model model(arguments.model, arguments.threads);
    if (arguments.cases.empty()) RunOnce(&model, interface, arguments);
    else RunCases(&model, interface, arguments.cases);
  } catch (const InputError& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
  return 0;
}
