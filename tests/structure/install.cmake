# Installs the build into an empty prefix: there must be one binary and nothing else, and it must run.
#   cmake -DBUILD=… -DPREFIX=… -DVERSION=… -P install.cmake
file(REMOVE_RECURSE ${PREFIX})
execute_process(COMMAND ${CMAKE_COMMAND} --install ${BUILD} --prefix ${PREFIX} OUTPUT_QUIET COMMAND_ERROR_IS_FATAL ANY)
file(GLOB_RECURSE installed RELATIVE ${PREFIX} ${PREFIX}/*)
if(NOT installed STREQUAL "bin/tessera")
  message(FATAL_ERROR "installed '${installed}' instead of 'bin/tessera' alone")
endif()
execute_process(COMMAND ${PREFIX}/bin/tessera --version OUTPUT_VARIABLE said OUTPUT_STRIP_TRAILING_WHITESPACE
  COMMAND_ERROR_IS_FATAL ANY)
if(NOT said STREQUAL "tessera ${VERSION}")
  message(FATAL_ERROR "the installed binary says '${said}' instead of 'tessera ${VERSION}'")
endif()
file(REMOVE_RECURSE ${PREFIX})
