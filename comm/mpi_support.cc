#include "comm/mpi_support.h"

namespace llmir::comm {

Status MpiStatus(int code, std::string_view what) {
  if (code == MPI_SUCCESS) return Status();
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  return Internal("{}: {}", what, std::string_view(text, static_cast<size_t>(length)));
}

StatusOr<MpiCommunicator> MpiCommunicator::Duplicate() const {
  MPI_Comm duplicate = MPI_COMM_NULL;
  LLMIR_RETURN_IF_MPI_ERROR(MPI_Comm_dup(communicator_, &duplicate));
  return MpiCommunicator(session_, duplicate);
}

}  // namespace llmir::comm
