"""Which kernels run, with which grid, block, shared memory and parameters: a launch plan for each operator.

The plans live here alone, in plain Python, because the compiled backend and the run-time compiled one (CuPy)
share them: a kernel is named by the C++ expression that instantiates it, which is the key of the table in
``csrc/cuda/launch.cu`` as well as the name expression for NVRTC, and its parameters are the bytes of its struct.

:mod:`.launch` holds what every plan is made of; beside it, a module for each kind of problem.
"""
