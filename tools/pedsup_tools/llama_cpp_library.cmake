# Read by CMake when llama.cpp's project begins (CMAKE_PROJECT_llama.cpp_INCLUDE). llama-cpp-python
# forces llama.cpp's helper library for programs on; its Python code calls none of it. Without it
# and without mtmd (LLAVA_BUILD) half of the compiling is left out.
set(LLAMA_BUILD_COMMON OFF)
