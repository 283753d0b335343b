// RUN: not llmir-opt %s --llm-verify-phase=phase=nothing 2>&1 | FileCheck %s
// CHECK: unknown phase 'nothing'
