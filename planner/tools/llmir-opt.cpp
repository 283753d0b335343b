//===- llmir-opt.cpp - Run passes on modules of the llm dialect -----------===//

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Tools/mlir-opt/MlirOptMain.h"
#include "mlir/Transforms/Passes.h"

#include "planner/Dialect/LLM/Transforms/Passes.h"

int main(int argc, char **argv) {
  mlir::DialectRegistry registry;
  registry.insert<llmir::llm::LLMDialect, mlir::func::FuncDialect>();
  llmir::llm::registerLLMPasses();
  llmir::llm::registerPlanPipeline();
  mlir::registerCanonicalizerPass();
  mlir::registerCSEPass();
  return mlir::asMainReturnCode(
      mlir::MlirOptMain(argc, argv, "llm dialect optimizer\n", registry));
}
