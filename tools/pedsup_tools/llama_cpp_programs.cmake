# Read by CMake when llama.cpp's project begins (CMAKE_PROJECT_llama.cpp_INCLUDE): ggml and libllama
# are the ones in bin/, copied from the installed llama-cpp-python, and are not compiled again.
foreach(name ggml-base ggml-cpu ggml llama)
  add_library(${name} SHARED IMPORTED GLOBAL)
  set_target_properties(${name} PROPERTIES
    IMPORTED_LOCATION ${CMAKE_BINARY_DIR}/bin/lib${name}${CMAKE_SHARED_LIBRARY_SUFFIX}
    INTERFACE_INCLUDE_DIRECTORIES "${CMAKE_CURRENT_SOURCE_DIR}/include;${CMAKE_CURRENT_SOURCE_DIR}/ggml/include"
    # What ggml's and libllama's own CMake files make public.
    INTERFACE_COMPILE_DEFINITIONS "GGML_BACKEND_SHARED;GGML_SHARED;GGML_USE_CPU;LLAMA_SHARED")
endforeach()
target_link_libraries(ggml INTERFACE ggml-base ggml-cpu)
target_link_libraries(llama INTERFACE ggml)

# llama.cpp leaves ggml out where there is a target of that name, but has no such way for libllama.
# CMake calls the command that a macro replaces by its name with an underscore.
macro(add_subdirectory folder)
  if(NOT "${folder}" STREQUAL "src")
    _add_subdirectory(${folder} ${ARGN})
  endif()
endmacro()

# Nothing is installed, and a library that is not built here cannot be.
macro(install)
endmacro()
