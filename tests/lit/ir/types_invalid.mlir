// RUN: llmir-opt %s -split-input-file -verify-diagnostics

// expected-error @+1 {{keys and values are stored as f32, f16, bf16, i8 or f8E4M3FN, got 'i4'}}
func.func private @f(!llm.paged_kv_cache<i4, 1, 1, 64, 16, 128>)

// -----

// expected-error @+1 {{keys and values are stored as f32, f16, bf16, i8 or f8E4M3FN, got 'f64'}}
func.func private @f(!llm.paged_kv_cache<bf16, 1, 1, 64, 16, 128, i8, f64>)

// -----

// expected-error @+1 {{a block holds a power of two of tokens, got 48}}
func.func private @f(!llm.paged_kv_cache<bf16, 1, 1, 64, 48, 128>)

// -----

// expected-error @+1 {{every size of a cache must be positive, got 0}}
func.func private @f(!llm.paged_kv_cache<f16, 1, 0, 64, 16, 128>)

// -----

// expected-error @+1 {{only tensors can be sharded, got 'f32'}}
func.func private @f(!llm.sharded_tensor<f32, 0, 1, 0>)

// -----

// expected-error @+1 {{shard dimension 2 of a tensor with 2 dimensions}}
func.func private @f(!llm.sharded_tensor<tensor<8x8xf32>, 2, 2, 0>)

// -----

// expected-error @+1 {{shard index 2 isn't below the number of shards, 2}}
func.func private @f(!llm.sharded_tensor<tensor<8x8xf32>, 0, 2, 2>)

// -----

// expected-error @+1 {{9 elements can't be divided evenly into 2 shards; give their offsets}}
func.func private @f(!llm.sharded_tensor<tensor<9x8xf32>, 0, 2, 0>)

// -----

// expected-error @+1 {{2 shards need 3 offsets, got 2}}
func.func private @f(!llm.sharded_tensor<tensor<8x8xf32>, 0, 2, 0, [0, 8]>)

// -----

// expected-error @+1 {{offsets must ascend from 0}}
func.func private @f(!llm.sharded_tensor<tensor<8x8xf32>, 0, 2, 0, [0, 9, 8]>)

// -----

// expected-error @+1 {{shards cover 7 of 8 elements}}
func.func private @f(!llm.sharded_tensor<tensor<8x8xf32>, 0, 2, 0, [0, 4, 7]>)

// -----

// expected-error @+1 {{33 elements along the quantization axis aren't a multiple of the group size, 32}}
func.func private @f(!llm.quantized_tensor<f16, [8, 33], true, false, 1, 32, 8>)

// -----

// expected-error @+1 {{quantization axis 2 of a tensor with 2 dimensions}}
func.func private @f(!llm.quantized_tensor<f16, [8, 32], true, false, 2, 32, 8>)

// -----

// expected-error @+1 {{needs a group size, or 0 with scales per channel}}
func.func private @f(!llm.quantized_tensor<f16, [8, 32], true, false, 1, 0, 8>)

// -----

// expected-error @+1 {{2 to 8 bits per element, got 1}}
func.func private @f(!llm.quantized_tensor<f16, [8, 32], true, false, 1, 32, 1>)

// -----

// expected-error @+1 {{2 to 8 bits per element, got 9}}
func.func private @f(!llm.quantized_tensor<f16, [8, 32], true, false, 1, 32, 9>)

// -----

// expected-error @+2 {{expected 'true' or 'false'}}
// expected-error @+1 {{failed to parse LLM_QuantizedTensorType parameter 'isSymmetric'}}
func.func private @f(!llm.quantized_tensor<f16, [8, 32], yes, false, 1, 32, 8>)
