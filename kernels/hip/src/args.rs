//! Arguments of the kernels, mirrored from `include/args.h`, where the fields are described.
#![allow(missing_docs)]

/// A struct of arguments: plain data without padding, of 64-bit addresses and 32-bit words.
pub trait KernelArgs: Copy {
    /// The struct's name in `args.h`.
    const NAME: &'static str;
    /// Name, offset and size of each field.
    const FIELDS: &'static [(&'static str, usize, usize)];
    /// Adds the struct's bytes as the kernel reads them.
    fn pack(&self, out: &mut Vec<u8>);
}

/// A field's bytes in the order of memory.
pub(crate) trait Field {
    fn pack(&self, out: &mut Vec<u8>);
}

macro_rules! number {
    ($($type:ty)*) => {$(
        impl Field for $type {
            fn pack(&self, out: &mut Vec<u8>) {
                out.extend(self.to_ne_bytes());
            }
        }
    )*};
}
number!(u32 u64 f32 i32 i16);

impl<T: Field, const N: usize> Field for [T; N] {
    fn pack(&self, out: &mut Vec<u8>) {
        self.iter().for_each(|item| item.pack(out));
    }
}

macro_rules! args {
    ($($(#[$doc:meta])* struct $name:ident { $($field:ident: $type:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            #[derive(Clone, Copy, Debug, Default, PartialEq)]
            pub struct $name { $(pub $field: $type,)* }

            impl Field for $name {
                fn pack(&self, out: &mut Vec<u8>) {
                    $(Field::pack(&self.$field, out);)*
                }
            }

            impl KernelArgs for $name {
                const NAME: &'static str = stringify!($name);
                const FIELDS: &'static [(&'static str, usize, usize)] =
                    &[$((stringify!($field), std::mem::offset_of!($name, $field), size_of::<$type>())),*];
                fn pack(&self, out: &mut Vec<u8>) {
                    Field::pack(self, out);
                }
            }
        )*

        /// Name, size and fields of every struct, for the test that compares them with `args.h`.
        pub const LAYOUTS: &[(&str, usize, &[(&str, usize, usize)])] =
            &[$(($name::NAME, size_of::<$name>(), $name::FIELDS)),*];
    };
}

args! {
    /// A weight in planes.
    struct RfPlanes { plane: [u64; 4], }

    /// From the file's blocks to planes.
    struct RfRepackArgs {
        planes: RfPlanes, source: u64, first: u64, count: u64,
        block_bytes: u32, fields: u32, offset: [u32; 4], length: [u32; 4],
    }

    /// Rows of a table.
    struct RfEmbedArgs {
        table: RfPlanes, ids: u64, out: u64, fault: u64,
        format: u32, rows: u32, columns: u32, tokens: u32, scale: f32, reserved: u32,
    }

    /// Scale and half sums of 32 activations of 8 bits.
    struct RfScale { d: f32, sums: [i16; 2], }

    /// A norm with an addition before and quantisation after.
    struct RfNormArgs {
        x: u64, addend: u64, sum: u64, weight: u64, bias: u64, out: u64, codes: u64, scales: u64, half: u64, powers: u64,
        rows: u32, n: u32, x_stride: u32, addend_stride: u32, out_stride: u32, heads: u32, norm: u32, eps: f32, scale: f32,
        reserved: u32,
    }

    /// An operation on two operands.
    struct RfBinaryArgs {
        a: u64, b: u64, out: u64,
        rows: u32, n: u32, a_stride: u32, b_stride: u32, out_stride: u32, op: u32, broadcast: u32, reserved: u32,
    }

    /// A matrix and a few vectors.
    struct RfGemvArgs {
        weight: RfPlanes, x: u64, scales: u64, out: u64, bias: u64, residual: u64, experts: u64,
        rows: u32, columns: u32, items: u32, x_stride: u32, out_stride: u32, residual_stride: u32, slots: u32, shared: u32,
        pair: u32, activation: u32, next_codes: u64, next_scales: u64, next_weight: u64, squares: u64,
        x_squares: u64, eps: f32, next_norm: u32,
    }

    /// A function of each element.
    struct RfUnaryArgs {
        x: u64, out: u64, rows: u32, n: u32, x_stride: u32, out_stride: u32, kind: u32, a: f32, b: f32, reserved: u32,
    }

    /// Rows of 32-bit words, by index.
    struct RfCopyArgs {
        x: u64, index: u64, out: u64, rows: u32, n: u32, x_stride: u32, out_stride: u32,
    }

    /// A scale that grows with the logarithm of the position.
    struct RfPositionScaleArgs {
        x: u64, positions: u64, out: u64, rows: u32, n: u32, x_stride: u32, out_stride: u32, beta: f32, interval: u32,
    }

    /// A gated activation with quantisation after.
    struct RfGatedArgs {
        gate: u64, up: u64, out: u64, codes: u64, scales: u64, half: u64, powers: u64,
        rows: u32, n: u32, gate_stride: u32, up_stride: u32, out_stride: u32, kind: u32,
    }

    /// Rows of each sequence to one row.
    struct RfPoolArgs {
        x: u64, query_start: u64, out: u64, sequences: u32, n: u32, x_stride: u32, kind: u32,
    }

    /// The paged cache of one layer.
    struct RfCache {
        base: u64, block_bytes: u64, value_offset: u32, key_scale_offset: u32, value_scale_offset: u32, kind: u32,
        kv_heads: u32, block_size: u32, key_dim: u32, value_dim: u32,
    }

    /// Rotary embedding and the write to the cache.
    struct RfRopeArgs {
        q: u64, k: u64, v: u64, q_out: u64, k_out: u64, q_weight: u64, k_weight: u64, positions: u64, frequencies: u64,
        slots: u64, cache: RfCache, tokens: u32, q_heads: u32, k_heads: u32, v_heads: u32, q_stride: u32, k_stride: u32,
        v_stride: u32, q_out_stride: u32, k_out_stride: u32, key_dim: u32, value_dim: u32, rotary_dim: u32,
        interleaved: u32, norm: u32, magnitude: f32, eps: f32,
    }

    /// Attention over the paged cache.
    struct RfAttentionArgs {
        q: u64, out: u64, sinks: u64, positions: u64, sequence_of: u64, query_start: u64, context_lens: u64,
        block_tables: u64, partial: u64, cache: RfCache, tokens: u32, sequences: u32, heads: u32, q_stride: u32,
        out_stride: u32, max_blocks: u32, splits: u32, window: u32, scale: f32, softcap: f32, arrived: u64, codes: u64, scales: u64,
        half: u64, powers: u64,
    }

    /// Attention of single tokens with the rotation before it.
    struct RfDecodeArgs { attention: RfAttentionArgs, rope: RfRopeArgs, }

    /// A matrix and many vectors.
    struct RfGemmArgs {
        weight: RfPlanes, x: u64, powers: u64, out: u64, bias: u64, residual: u64, tiles: u64, sorted: u64, partial: u64,
        arrived: u64, rows: u32, columns: u32, items: u32, x_stride: u32, out_stride: u32, residual_stride: u32, slots: u32,
        shared: u32, splits: u32, reserved: u32,
    }

    /// Choice of experts.
    struct RfRouterArgs {
        logits: u64, bias: u64, chosen: u64, weights: u64,
        tokens: u32, experts: u32, top_k: u32, gate: u32, renormalize: u32, stride: u32, scale: f32, reserved: u32,
    }

    /// Items sorted by expert.
    struct RfExpertSortArgs {
        experts: u64, sorted: u64, tiles: u64, items: u32, count: u32, tile: u32, most: u32,
    }

    /// Weighted sum over the experts of a token.
    struct RfExpertCombineArgs {
        x: u64, weights: u64, out: u64, residual: u64,
        tokens: u32, n: u32, slots: u32, x_stride: u32, out_stride: u32, residual_stride: u32,
    }

    /// A matrix of any format and f32 activations, exactly.
    struct RfLinearArgs {
        weight: RfPlanes, x: u64, out: u64, bias: u64, residual: u64, experts: u64, format: u32,
        rows: u32, columns: u32, items: u32, x_stride: u32, out_stride: u32, residual_stride: u32, slots: u32, shared: u32,
        reserved: u32,
    }

    /// Sampling of each row.
    struct RfSampleArgs {
        logits: u64, requests: u64, tokens: u64, scratch: u64, rows: u32, n: u32, stride: u32, reserved: u32,
    }

    /// How one row is sampled.
    struct RfSampleRequest { temperature: f32, top_p: f32, min_p: f32, top_k: u32, draw: u64, }
}
