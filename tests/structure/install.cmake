# Installs the build into an empty prefix: there must be one binary, which runs, and the example configs, which it
# reads from an empty directory, as README.md says.
#   cmake -DBUILD=… -DPREFIX=… -DVERSION=… -DCONFIGS=… -P install.cmake
file(REMOVE_RECURSE ${PREFIX})
execute_process(COMMAND ${CMAKE_COMMAND} --install ${BUILD} --prefix ${PREFIX} OUTPUT_QUIET COMMAND_ERROR_IS_FATAL ANY)
file(GLOB_RECURSE installed RELATIVE ${PREFIX} ${PREFIX}/*)
file(GLOB configs RELATIVE ${CONFIGS} ${CONFIGS}/*.yaml)
list(TRANSFORM configs PREPEND "share/tessera/configs/")
set(expected bin/tessera ${configs})
list(SORT installed)
list(SORT expected)
if(NOT installed STREQUAL expected)
  message(FATAL_ERROR "installed '${installed}' instead of '${expected}'")
endif()
execute_process(COMMAND ${PREFIX}/bin/tessera --version OUTPUT_VARIABLE said OUTPUT_STRIP_TRAILING_WHITESPACE
  COMMAND_ERROR_IS_FATAL ANY)
if(NOT said STREQUAL "tessera ${VERSION}")
  message(FATAL_ERROR "the installed binary says '${said}' instead of 'tessera ${VERSION}'")
endif()
set(empty ${PREFIX}/empty)
file(MAKE_DIRECTORY ${empty})
file(COPY_FILE ${PREFIX}/share/tessera/configs/demo.yaml ${empty}/run.yaml)
execute_process(COMMAND ${PREFIX}/bin/tessera config show run.yaml WORKING_DIRECTORY ${empty} OUTPUT_QUIET
  COMMAND_ERROR_IS_FATAL ANY)
file(REMOVE_RECURSE ${PREFIX})
