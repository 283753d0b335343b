# The llm dialect's reference from its TableGen sources:
#   cmake -DTBLGEN=mlir-tblgen -DINCLUDES=FOLDER,FOLDER -DOUTPUT=FILE [-DEXPECTED=FILE] -P DialectReference.cmake
# With EXPECTED, fails where OUTPUT isn't the same.
string(REPLACE "," ";" INCLUDES "${INCLUDES}")
list(TRANSFORM INCLUDES PREPEND -I)
set(sources ${CMAKE_CURRENT_LIST_DIR}/Dialect/LLM/IR)

function(generate result)
  execute_process(COMMAND ${TBLGEN} ${ARGN} ${INCLUDES} OUTPUT_VARIABLE text COMMAND_ERROR_IS_FATAL ANY)
  # What the generator says about itself, and its mark for a table of contents, which nothing here expands.
  string(REGEX REPLACE "<!--[^>]*-->\n*|\\[TOC\\]\n*" "" text "${text}")
  set(${result} "${text}" PARENT_SCOPE)
endfunction()

generate(dialect -gen-dialect-doc -dialect=llm ${sources}/LLMOps.td)
generate(interfaces -gen-op-interface-docs ${sources}/LLMInterfaces.td)
string(REPLACE "# OpInterface definitions" "# Operation interfaces" interfaces "${interfaces}")
file(WRITE ${OUTPUT}
  "<!-- Generated from planner/Dialect/LLM/IR/*.td by the target llmir-dialect-reference: change those. -->\n\n"
  "${dialect}${interfaces}")

if(EXPECTED)
  execute_process(COMMAND ${CMAKE_COMMAND} -E compare_files ${OUTPUT} ${EXPECTED} RESULT_VARIABLE differs)
  if(differs)
    message(FATAL_ERROR "${EXPECTED} isn't what the TableGen sources say (${OUTPUT}): "
                        "build the target llmir-dialect-reference, which rewrites it")
  endif()
endif()
