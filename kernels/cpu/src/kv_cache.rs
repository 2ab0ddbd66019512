use crate::cpu::Cpu;
use crate::error::{KernelError, exact};
use crate::simd::{Kernel, Simd};

/// Element type of a [`KvCache`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvType {
    /// Single precision.
    F32,
    /// Half precision: half the memory, keys and values rounded to 11 bits.
    F16,
}

impl KvType {
    /// Bytes per element.
    pub fn bytes(self) -> usize {
        match self {
            KvType::F32 => 4,
            KvType::F16 => 2,
        }
    }
}

/// Sizes of a [`KvCache`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// Key and value heads.
    pub heads: usize,
    /// Elements of a key head.
    pub key_dim: usize,
    /// Elements of a value head.
    pub value_dim: usize,
    /// Tokens per block.
    pub block_size: usize,
}

impl KvShape {
    /// Bytes of one block.
    pub fn block_bytes(&self, kind: KvType) -> u64 {
        [self.heads, self.key_dim.saturating_add(self.value_dim), self.block_size, kind.bytes()]
            .iter()
            .fold(1u64, |n, &d| n.saturating_mul(d as u64))
    }
}

/// Keys and values of one layer in blocks: `[blocks, heads, block_size, dim]`, so that attention reads the tokens of a
/// head one after the other.
#[derive(Debug)]
pub struct KvCache {
    pub(crate) shape: KvShape,
    pub(crate) kind: KvType,
    blocks: usize,
    keys: Vec<u8>,
    values: Vec<u8>,
}

impl KvCache {
    /// A cache of `blocks` blocks; `None` if there is not enough memory.
    pub fn new(shape: KvShape, kind: KvType, blocks: usize) -> Option<KvCache> {
        let bytes = |dim: usize| {
            [shape.heads, shape.block_size, dim, kind.bytes()].iter().try_fold(blocks, |n, &d| n.checked_mul(d))
        };
        let (keys, values) = (zeroed(bytes(shape.key_dim)?)?, zeroed(bytes(shape.value_dim)?)?);
        Some(KvCache { shape, kind, blocks, keys, values })
    }

    /// Blocks.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// Keys of a head in a block, `[block_size, key_dim]`.
    pub(crate) fn keys(&self, block: usize, head: usize) -> &[u8] {
        part(
            &self.keys,
            block * self.shape.heads + head,
            self.shape.block_size * self.shape.key_dim * self.kind.bytes(),
        )
    }

    /// Values of a head in a block, `[block_size, value_dim]`.
    pub(crate) fn values(&self, block: usize, head: usize) -> &[u8] {
        let len = self.shape.block_size * self.shape.value_dim * self.kind.bytes();
        part(&self.values, block * self.shape.heads + head, len)
    }

    /// Writes keys `[T, heads, key_dim]` and values `[T, heads, value_dim]` to their slots, `block * block_size +
    /// offset`.
    ///
    /// # Errors
    /// Lengths or slots that do not fit.
    pub fn write(&mut self, cpu: &Cpu, keys: &[f32], values: &[f32], slots: &[u32]) -> Result<(), KernelError> {
        let KvShape { heads, key_dim, value_dim, block_size } = self.shape;
        exact("keys for the cache", keys.len(), slots.len() * heads * key_dim)?;
        exact("values for the cache", values.len(), slots.len() * heads * value_dim)?;
        let most = self.blocks * block_size;
        if let Some(bad) = slots.iter().find(|&&s| s as usize >= most) {
            return Err(KernelError::mismatch("slot of the cache", format!("below {most}"), bad));
        }
        let (kind, isa) = (self.kind, cpu.isa());
        isa.run(Scatter { from: keys, to: &mut self.keys, slots, kind, heads, block_size, dim: key_dim });
        isa.run(Scatter { from: values, to: &mut self.values, slots, kind, heads, block_size, dim: value_dim });
        Ok(())
    }
}

fn part(bytes: &[u8], index: usize, len: usize) -> &[u8] {
    &bytes[index * len..(index + 1) * len]
}

/// Zeros that take no memory until they are written. `None` if the system refuses.
fn zeroed(len: usize) -> Option<Vec<u8>> {
    let layout = std::alloc::Layout::array::<u8>(len).ok()?;
    if len == 0 {
        return Some(vec![]);
    }
    // SAFETY: the layout is not empty.
    let data = unsafe { std::alloc::alloc_zeroed(layout) };
    // SAFETY: just allocated with the layout of a Vec of this capacity, and all bytes are initialised.
    (!data.is_null()).then(|| unsafe { Vec::from_raw_parts(data, len, len) })
}

struct Scatter<'a> {
    from: &'a [f32],
    to: &'a mut [u8],
    slots: &'a [u32],
    kind: KvType,
    heads: usize,
    block_size: usize,
    dim: usize,
}

impl Kernel for Scatter<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (dim, bytes) = (self.dim, self.dim * self.kind.bytes());
        for (row, &slot) in self.from.chunks_exact(self.heads * dim).zip(self.slots) {
            let (block, offset) = (slot as usize / self.block_size, slot as usize % self.block_size);
            for (head, from) in row.chunks_exact(dim).enumerate() {
                let at = ((block * self.heads + head) * self.block_size + offset) * bytes;
                let to = &mut self.to[at..at + bytes];
                match self.kind {
                    KvType::F32 => {
                        for (to, from) in to.chunks_exact_mut(4).zip(from) {
                            to.copy_from_slice(&from.to_ne_bytes());
                        }
                    }
                    KvType::F16 => to_half(s, from, to),
                }
            }
        }
    }
}

#[inline(always)]
fn to_half<S: Simd>(s: S, from: &[f32], to: &mut [u8]) {
    assert!(to.len() == 2 * from.len());
    let mut i = 0;
    while i < from.len() {
        let n = (from.len() - i).min(S::LANES);
        let mut halves = [0u8; 32];
        // SAFETY: `n` elements are left in both, and `halves` takes the 16 lanes of the widest vector.
        unsafe {
            s.store_f16(halves.as_mut_ptr(), s.load_first(from.as_ptr().add(i), n));
            std::ptr::copy_nonoverlapping(halves.as_ptr(), to.as_mut_ptr().add(2 * i), 2 * n);
        }
        i += n;
    }
}
