"""Under the emulator: run an ONNX file on ONNX Runtime, one thread. `ort_runner.py MODEL.onnx INPUTS.npz OUTPUT.npy RUNS`.

Two runs to warm up, then RUNS runs between two system calls MARK (targets/tvm_cpu/measure/counter.c).
"""

import ctypes
import os
import sys

import numpy as np
import onnxruntime

MARK = ctypes.c_long(0x65646765)
system_call = ctypes.CDLL(None).syscall

file, inputs, output, runs = sys.argv[1:]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
arrays = np.load(inputs)
feeds = {port.name: arrays[f"arr_{i}"] for i, port in enumerate(session.get_inputs())}
for _ in range(2):
    results = session.run(None, feeds)
system_call(MARK)
for _ in range(int(runs)):
    session.run(None, feeds)
system_call(MARK)
np.save(output, results[0])
os._exit(0)  # the interpreter's end takes an emulator seconds
