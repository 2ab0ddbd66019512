//! Weights from the file's mapping to the device: pieces go through pinned buffers on several streams, so that copying, moving
//! fields into planes, and reading the next piece from the file happen at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rocmforge_kernels_hip::{Planes, launch};
use rocmforge_sdk::{Error, ErrorKind, Result, log};

use crate::gpu::Gpu;
use crate::memory::{DeviceBuffer, Pinned, Stream};

/// Pieces in flight.
const LANES: usize = 3;

/// Bytes of a piece at most.
const PIECE: u64 = 16 << 20;

/// Bytes of a piece at least: many blocks of every type of weights.
const LEAST: u64 = 64 << 10;

struct Lane {
    stream: Stream,
    pinned: Pinned,
    /// Holds the file's layout until its fields are in planes.
    staged: DeviceBuffer,
}

impl Lane {
    fn new(gpu: &Arc<Gpu>, piece: u64) -> Result<Lane> {
        Ok(Lane {
            stream: Stream::new(gpu)?,
            pinned: Pinned::new(gpu, piece as usize, "staging of weights")?,
            staged: DeviceBuffer::new(gpu, piece, "staging of weights")?,
        })
    }
}

/// Bytes of a piece of so many bytes in all: those in flight are no more than there are.
fn first_piece(total: u64) -> u64 {
    (total / LANES as u64).clamp(LEAST, PIECE).next_multiple_of(4096)
}

/// The size to try after one that did not fit.
fn smaller(piece: u64) -> Option<u64> {
    (piece > LEAST).then(|| (piece / 2).max(LEAST).next_multiple_of(4096))
}

/// Where plain bytes of a weight go.
pub(crate) struct Target<'a> {
    pub(crate) buffer: &'a DeviceBuffer,
    pub(crate) offset: u64,
}

/// Uploads under way.
pub(crate) struct Uploader {
    gpu: Arc<Gpu>,
    lanes: Vec<Lane>,
    next: usize,
    patience: Duration,
    total: u64,
    done: u64,
    logged: u64,
    start: Instant,
}

impl Uploader {
    /// For so many bytes in all. Where the device has little memory beside the weights, pieces are smaller.
    pub(crate) fn new(gpu: &Arc<Gpu>, total: u64, patience: Duration) -> Result<Uploader> {
        let mut piece = first_piece(total);
        let lanes = loop {
            let lanes = (0..LANES).map(|_| Lane::new(gpu, piece)).collect::<Result<Vec<Lane>>>();
            match (lanes, smaller(piece)) {
                (Err(e), Some(less)) if e.kind == ErrorKind::OutOfMemory => {
                    log!(Debug, "{e}; next with pieces of {less} bytes");
                    piece = less;
                }
                (lanes, _) => break lanes?,
            }
        };
        let (next, done, logged, start) = (0, 0, 0, Instant::now());
        Ok(Uploader { gpu: Arc::clone(gpu), lanes, next, patience, total, done, logged, start })
    }

    /// A lane that is done with its piece before.
    fn lane(&mut self) -> Result<&mut Lane> {
        self.next = (self.next + 1) % self.lanes.len();
        let (next, patience) = (self.next, self.patience);
        let lane = self.lanes.get_mut(next).ok_or_else(|| Error::internal("no lane"))?;
        lane.stream.wait(patience)?;
        Ok(lane)
    }

    /// Queues rows of a matrix: `bytes`, blocks of the file's layout, become its blocks from `first` on.
    pub(crate) fn matrix(&mut self, planes: &Planes, mut first: u64, bytes: &[u8]) -> Result<()> {
        let (wave, block) = (self.gpu.facts.wave, planes.dtype.layout().block_bytes);
        let most = self.lanes.first().map_or(PIECE as usize, |l| l.pinned.len()) / block * block;
        if most == 0 {
            return Err(Error::internal("a block larger than the staging buffer"));
        }
        for piece in bytes.chunks(most) {
            let lane = self.lane()?;
            lane.pinned.bytes_mut()[..piece.len()].copy_from_slice(piece);
            let count = (piece.len() / block) as u64;
            let repack = launch::repack(&planes.repack(lane.staged.address(), first, count), wave);
            // SAFETY: the lane's buffers are used again, and dropped, only after a wait for its stream; the planes belong
            // to the executable, which finishes the uploader before it goes.
            unsafe {
                lane.stream.upload(&lane.pinned, piece.len(), &lane.staged, 0)?;
                lane.stream.launch(&repack)?;
            }
            first += count;
            self.progress(piece.len() as u64);
        }
        Ok(())
    }

    /// Queues plain bytes.
    pub(crate) fn plain(&mut self, target: &Target<'_>, bytes: &[u8]) -> Result<()> {
        let mut offset = target.offset;
        let most = self.lanes.first().map_or(PIECE as usize, |l| l.pinned.len());
        for piece in bytes.chunks(most) {
            let lane = self.lane()?;
            lane.pinned.bytes_mut()[..piece.len()].copy_from_slice(piece);
            // SAFETY: as in `matrix`.
            unsafe { lane.stream.upload(&lane.pinned, piece.len(), target.buffer, offset)? };
            offset += piece.len() as u64;
        }
        Ok(())
    }

    fn progress(&mut self, bytes: u64) {
        self.done += bytes;
        let tenth = (10 * self.done).checked_div(self.total).unwrap_or(10);
        if tenth > self.logged && self.total > 1 << 30 {
            self.logged = tenth;
            let seconds = self.start.elapsed().as_secs_f64().max(1e-9);
            let speed = self.done as f64 / seconds / 1e9;
            let (done, total, id) = (self.done >> 20, self.total >> 20, self.gpu.facts.id());
            log!(Info, "device {id}: {done} of {total} MiB uploaded, {speed:.1} GB/s");
        }
    }

    /// Waits for all pieces.
    pub(crate) fn finish(self) -> Result<()> {
        self.lanes.iter().try_for_each(|lane| lane.stream.wait(self.patience))
    }
}

impl Drop for Uploader {
    fn drop(&mut self) {
        // After an error pieces may still be under way.
        for lane in &self.lanes {
            let _ = lane.stream.wait(self.patience);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_get_smaller_down_to_the_least() {
        let check = |total, expected: &[u64]| {
            let sizes: Vec<u64> = std::iter::successors(Some(first_piece(total)), |&piece| smaller(piece)).collect();
            assert_eq!(sizes, expected, "{total}");
        };
        check(0, &[64 << 10]);
        check(3 * (200 << 10), &[200 << 10, 100 << 10, 64 << 10]);
        check(3 * (65 << 10), &[68 << 10, 64 << 10]);
        let halves: Vec<u64> = (0..9).map(|n| (16 << 20) >> n).collect();
        check(1 << 40, &halves);
        check(u64::MAX, &halves);
    }
}
