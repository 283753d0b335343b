// Plays what the ranks of a replica exchange, without their arithmetic, to see that every run ends.
#pragma once

#include <cstdint>
#include <string>

#include "plan_schema/base/status.h"
#include "plan_schema/plan_generated.h"

namespace llmir::plan {

// Runs the `program`-th program of all stages of `replica` as its ranks would: a send and its
// receive pass together (rendezvous: nothing is assumed to be buffered), a collective passes when
// all ranks of the stage have come. If all ranks reach the end, no order of execution can deadlock:
// each rank's steps are a fixed sequence and a message is named by source, destination and its
// number among the program's sends, so that what passes never depends on who was faster. For the
// same reason any sequence of such programs passes, given in one order to all ranks.
//
// What cannot pass is an error with its counter-example: both ranks and the steps at which they
// stand (stage, index, operation, name), or the whole circle of ranks that wait for each other. The
// same for groups that aren't a stage's ranks, rows of two sizes, ranks that skip a collective.
//
// `plan`'s tables, the forms of its steps and their events have been verified (ProgramVerifier).
// `where` names the replica in errors. Any thread.
Status Rehearse(const Plan& plan, const Replica& replica, uint32_t program,
                const std::string& where);

}  // namespace llmir::plan
