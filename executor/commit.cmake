# Writes OUTPUT, a header with the commit of the Git work tree SOURCE: "unknown" where there is none.
execute_process(COMMAND git -C ${SOURCE} rev-parse --short=12 HEAD
  OUTPUT_VARIABLE commit ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE failed)
if(failed)
  set(commit unknown)
endif()
file(CONFIGURE OUTPUT ${OUTPUT} CONTENT [[
#pragma once

namespace llmir::executor {
inline constexpr const char kCommit[] = "@commit@";
}  // namespace llmir::executor
]] @ONLY)
