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
// number among the program's sends, so that what passes never depends on who was faster.
//
// What cannot pass is an error with its counter-example: both ranks and the steps at which they
// stand (stage, index, operation, name), or the whole circle of ranks that wait for each other. The
// same for groups that aren't a stage's ranks, rows of two sizes, ranks that skip a collective.
//
// `plan`'s tables, the forms of its steps and their events have been verified (ProgramVerifier).
// `where` names the replica in errors. Any thread.
Status Rehearse(const Plan& plan, const Replica& replica, uint32_t program,
                const std::string& where);

// Plays a sequence of all programs in turn, with as many in flight as the plan says. Between
// programs there are these waits: a rank begins a program when its descriptor has come, which rank
// 0 passes to its stage and to the next stage's first rank when it begins that program itself, and
// so on from stage to stage; a stage's first rank leaves a program when the next stage's has its
// descriptor; and rank 0 begins the k-th when the ids of the (k - depth)-th have come from the
// sampling rank, which sends them without waiting at that program's end.
//
// That this goes to its end stands for every sequence of programs that pass alone: take them one
// after the other, each in the order of its own play. All that a step waits for lies before it: in
// its program's play, in the chain of descriptors, in an earlier program. So one order goes to the
// end, and as what passes doesn't depend on who is faster, every order does. Messages of two
// programs with one name don't mix: a program that passes leaves none over, and channels are FIFO.
//
// Each program has passed Rehearse. `where` names the replica in errors. Any thread.
Status RehearseInFlight(const Plan& plan, const Replica& replica, const std::string& where);

}  // namespace llmir::plan
