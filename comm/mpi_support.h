// MPI's handles as values, and its error codes as Status.
#pragma once

#include <mpi.h>

#include <memory>
#include <string_view>
#include <utility>

#include "plan_schema/base/status.h"

namespace llmir::comm {

// OK for MPI_SUCCESS, else INTERNAL with `what` and MPI's own words.
Status MpiStatus(int code, std::string_view what);

#define LLMIR_RETURN_IF_MPI_ERROR(call) \
  LLMIR_RETURN_IF_ERROR(::llmir::comm::MpiStatus((call), #call))

// MPI between its start and its end. Held by all that uses MPI, so that it ends last.
class MpiSession {
 public:
  MpiSession() = default;
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;
  ~MpiSession() { MPI_Finalize(); }
};

// An owned communicator.
class MpiCommunicator {
 public:
  MpiCommunicator() = default;
  MpiCommunicator(std::shared_ptr<MpiSession> session, MPI_Comm communicator)
      : session_(std::move(session)), communicator_(communicator) {
    MPI_Comm_set_errhandler(communicator_, MPI_ERRORS_RETURN);
  }
  MpiCommunicator(MpiCommunicator&& other) noexcept { *this = std::move(other); }
  MpiCommunicator& operator=(MpiCommunicator&& other) noexcept {
    std::swap(session_, other.session_);
    std::swap(communicator_, other.communicator_);
    return *this;
  }
  ~MpiCommunicator() {
    if (communicator_ != MPI_COMM_NULL) MPI_Comm_free(&communicator_);
  }

  MPI_Comm get() const { return communicator_; }
  // Collective: another one of the same ranks, whose messages don't mix with this one's.
  StatusOr<MpiCommunicator> Duplicate() const;

 private:
  std::shared_ptr<MpiSession> session_;
  MPI_Comm communicator_ = MPI_COMM_NULL;
};

}  // namespace llmir::comm
