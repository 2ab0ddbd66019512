use crate::cpu::Cpu;
use crate::error::{KernelError, exact};
use crate::packed::advise_huge_pages;
use crate::simd::{Kernel, Simd};
use crate::zeros::zeros;

/// Bytes of keys or values of a layer from which on pages are large, so that short contexts take little memory.
const SMALL_PAGES: usize = 2 << 20;

/// Elements that share a scale in a cache of 8 bits.
pub(crate) const GROUP: usize = 32;

/// Element type of a [`KvCache`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvType {
    /// Single precision.
    F32,
    /// Half precision: half the memory, keys and values rounded to 11 bits.
    F16,
    /// 8 bits with an f16 scale for each 32 elements of a key or value: a bit more than a quarter of the memory.
    Q8,
}

impl KvType {
    /// Bytes per element, without scales.
    pub(crate) fn bytes(self) -> usize {
        match self {
            KvType::F32 => 4,
            KvType::F16 => 2,
            KvType::Q8 => 1,
        }
    }

    /// Bytes of `tokens` keys or values of `dim` elements; `None` if they overflow.
    fn row_bytes(self, tokens: usize, dim: usize) -> Option<usize> {
        let scales = if self == KvType::Q8 { dim.div_ceil(GROUP).checked_mul(2)? } else { 0 };
        let dim = if self == KvType::Q8 { dim.checked_next_multiple_of(2)? } else { dim };
        dim.checked_mul(self.bytes())?.checked_add(scales)?.checked_mul(tokens)
    }

    /// Bytes of the codes of a block of 8 bits, after which its scales follow.
    pub(crate) fn codes(tokens: usize, dim: usize) -> usize {
        tokens * dim.next_multiple_of(2)
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
        let head = |dim| kind.row_bytes(self.block_size, dim).map_or(u64::MAX, |n| n as u64);
        head(self.key_dim).saturating_add(head(self.value_dim)).saturating_mul(self.heads as u64)
    }
}

/// Keys and values of one layer in blocks, of each block head after head, so that attention reads the tokens of a head
/// one after the other: keys `[key_dim, block_size]`, values `[block_size, value_dim]`. In 8 bits keys lie in pairs of their
/// elements, `[key_dim / 2, block_size, 2]`, and the scales of both follow, `[dim / 32, block_size]`.
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
        let bytes = |dim: usize| kind.row_bytes(shape.block_size, dim)?.checked_mul(shape.heads)?.checked_mul(blocks);
        let (keys, values) = (zeroed(bytes(shape.key_dim)?)?, zeroed(bytes(shape.value_dim)?)?);
        Some(KvCache { shape, kind, blocks, keys, values })
    }

    /// Blocks.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// Keys of a head in a block.
    pub(crate) fn keys(&self, block: usize, head: usize) -> &[u8] {
        let len = self.kind.row_bytes(self.shape.block_size, self.shape.key_dim).unwrap_or(0);
        part(&self.keys, block * self.shape.heads + head, len)
    }

    /// Values of a head in a block.
    pub(crate) fn values(&self, block: usize, head: usize) -> &[u8] {
        let len = self.kind.row_bytes(self.shape.block_size, self.shape.value_dim).unwrap_or(0);
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
        let keys = Scatter { from: keys, to: &mut self.keys, slots, kind, heads, block_size, dim: key_dim, keys: true };
        isa.run(keys);
        let to = &mut self.values;
        isa.run(Scatter { from: values, to, slots, kind, heads, block_size, dim: value_dim, keys: false });
        Ok(())
    }
}

fn part(bytes: &[u8], index: usize, len: usize) -> &[u8] {
    &bytes[index * len..(index + 1) * len]
}

/// `None` if the system refuses.
fn zeroed(len: usize) -> Option<Vec<u8>> {
    let mut bytes = zeros(len).ok()?;
    if len > SMALL_PAGES {
        advise_huge_pages(&mut bytes[SMALL_PAGES..]);
    }
    Some(bytes)
}

struct Scatter<'a> {
    from: &'a [f32],
    to: &'a mut [u8],
    slots: &'a [u32],
    kind: KvType,
    heads: usize,
    block_size: usize,
    dim: usize,
    /// Whether elements of a token lie `block_size` apart, else side by side.
    keys: bool,
}

impl Kernel for Scatter<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (dim, size) = (self.dim, self.block_size);
        let len = self.kind.row_bytes(size, dim).unwrap_or(0);
        for (row, &slot) in self.from.chunks_exact(self.heads * dim).zip(self.slots) {
            let (block, token) = (slot as usize / size, slot as usize % size);
            for (head, from) in row.chunks_exact(dim).enumerate() {
                let to = &mut self.to[(block * self.heads + head) * len..][..len];
                // First element, and how far apart they are.
                let (at, step) = if self.keys { (token, size) } else { (token * dim, 1) };
                match self.kind {
                    KvType::F32 => put(to, at, step, from.iter().map(|x| x.to_ne_bytes())),
                    KvType::F16 if step == 1 => to_half(s, from, &mut to[2 * at..2 * (at + dim)]),
                    KvType::F16 => {
                        for (group, from) in from.chunks(HALVES).enumerate() {
                            let mut halves = [0; 2 * HALVES];
                            to_half(s, from, &mut halves[..2 * from.len()]);
                            let halves = halves.as_chunks::<2>().0[..from.len()].iter().copied();
                            put(to, at + group * HALVES * step, step, halves);
                        }
                    }
                    KvType::Q8 => {
                        let (codes, scales) = to.split_at_mut(KvType::codes(size, dim));
                        for (group, from) in from.chunks(GROUP).enumerate() {
                            // As integers, magnitudes have the same order, and what is not finite makes the scale so.
                            let largest = from.iter().fold(0, |m: u32, x| m.max(x.to_bits() & 0x7fff_ffff));
                            let scale = half::f16::from_f32(f32::from_bits(largest) / 127.0);
                            let inverse = if scale.to_f32() > 0.0 { 1.0 / scale.to_f32() } else { 0.0 };
                            let code = |x: &f32| (x * inverse).round_ties_even() as i8 as u8;
                            if self.keys {
                                let pairs = from.chunks(2).map(|pair| [code(&pair[0]), pair.get(1).map_or(0, code)]);
                                put(codes, token + group * GROUP / 2 * size, size, pairs);
                            } else {
                                put(codes, at + group * GROUP, 1, from.iter().map(|x| [code(x)]));
                            }
                            put(scales, token + group * size, 1, std::iter::once(scale.to_ne_bytes()));
                        }
                    }
                }
            }
        }
    }
}

/// Elements that are rounded to half precision at a time.
const HALVES: usize = 16;

/// Elements from number `at` on, `step` apart.
#[inline(always)]
fn put<const N: usize>(to: &mut [u8], at: usize, step: usize, from: impl Iterator<Item = [u8; N]>) {
    let to = to.as_chunks_mut::<N>().0[at..].iter_mut().step_by(step);
    to.zip(from).for_each(|(to, from)| *to = from);
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
