# Compile settings of every target of ours, and the one way to add a test executable.

add_library(tessera_settings INTERFACE)
target_include_directories(tessera_settings INTERFACE ${PROJECT_SOURCE_DIR})
set(tessera_warnings -Wall -Wextra -Wconversion -Wshadow -Werror)
string(REPLACE ";" "," tessera_host_warnings "${tessera_warnings}")
target_compile_options(tessera_settings INTERFACE
  "$<$<COMPILE_LANGUAGE:C,CXX>:${tessera_warnings};-fno-math-errno;-fno-trapping-math>"
  "$<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr;-Xcompiler=${tessera_host_warnings}>")
if(TESSERA_SANITIZE)
  target_compile_options(tessera_settings INTERFACE -fsanitize=${TESSERA_SANITIZE} -fno-omit-frame-pointer -g1
    -Wno-maybe-uninitialized)
  target_link_options(tessera_settings INTERFACE -fsanitize=${TESSERA_SANITIZE})
  if(TESSERA_SANITIZE MATCHES "undefined")
    target_compile_options(tessera_settings INTERFACE -fno-sanitize-recover=all)
  endif()
endif()

# tessera_library(NAME [OBJECT] SOURCES... [LINK targets...])
function(tessera_library name)
  cmake_parse_arguments(ARG "OBJECT" "" "SOURCES;LINK" ${ARGN})
  if(ARG_OBJECT)
    add_library(${name} OBJECT ${ARG_SOURCES})
  else()
    add_library(${name} STATIC ${ARG_SOURCES})
  endif()
  target_link_libraries(${name} PUBLIC tessera_settings ${ARG_LINK})
endfunction()

# tessera_test(FOLDER SOURCES... [LINK targets...]): one GoogleTest executable tests_FOLDER for a folder,
# its cases known to ctest one by one.
function(tessera_test folder)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINK" ${ARGN})
  set(name tests_${folder})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE tessera_settings GTest::gtest_main ${ARG_LINK})
  target_compile_definitions(${name} PRIVATE
    TESSERA_SOURCE_DIR="${PROJECT_SOURCE_DIR}" TESSERA_BINARY_DIR="${PROJECT_BINARY_DIR}")
  set(timeout 120)
  if(TESSERA_SANITIZE)
    set(timeout 400)
  endif()
  gtest_discover_tests(${name} NO_PRETTY_VALUES DISCOVERY_MODE PRE_TEST PROPERTIES TIMEOUT ${timeout})
endfunction()

# tessera_mutants_test(NAME SOURCES... MUTABLE paths LINK targets...): a test whose faults can be switched on. MUTABLE are
# the sources that carry them, without .cpp, built once more with the switch.
function(tessera_mutants_test name)
  cmake_parse_arguments(ARG "" "" "SOURCES;MUTABLE;LINK" ${ARGN})
  list(TRANSFORM ARG_MUTABLE PREPEND ${PROJECT_SOURCE_DIR}/)
  list(TRANSFORM ARG_MUTABLE APPEND .cpp)
  tessera_test(${name} SOURCES ${ARG_SOURCES} ${ARG_MUTABLE} LINK ${ARG_LINK})
  target_compile_definitions(tests_${name} PRIVATE TESSERA_MUTANTS)
  # The same sources again: tools that read compile_commands.json need them once.
  set_target_properties(tests_${name} PROPERTIES EXPORT_COMPILE_COMMANDS OFF)
endfunction()
include(GoogleTest)
