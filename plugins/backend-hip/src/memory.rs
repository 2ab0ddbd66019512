//! Memory, streams and events that belong to a value: freed when it goes, once, and never while the device may use them.
//!
//! Copies and launches are queued, so whoever queues one keeps what it touches until the stream has passed it. In this crate
//! that is one rule: **an executable waits for its streams before anything of it is dropped** (`HipExecutable::drop`,
//! `Uploader::finish`). On a lost device nothing is freed: asking it for anything may never return.

use std::ffi::c_void;
use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rocmforge_hip_sys::{
    hipEvent_t, hipEventDefault, hipEventDisableTiming, hipHostMallocDefault, hipMemcpyDeviceToHost,
    hipMemcpyHostToDevice, hipStream_t,
};
use rocmforge_kernels_hip::Launch;
use rocmforge_sdk::{Error, Result, log};

use crate::gpu::Gpu;

/// How long a wait keeps asking before it sleeps between questions: a step of a small model is over by then.
const EAGER: Duration = Duration::from_millis(4);

/// Memory of a device.
pub(crate) struct DeviceBuffer {
    gpu: Arc<Gpu>,
    pointer: *mut c_void,
    bytes: u64,
}

// SAFETY: a device address, which any thread may pass to HIP; the value owns it.
unsafe impl Send for DeviceBuffer {}
// SAFETY: as above; nothing is changed through a shared reference.
unsafe impl Sync for DeviceBuffer {}

impl DeviceBuffer {
    /// At least 1 byte, aligned to 256. `what` names it where there is too little memory.
    pub(crate) fn new(gpu: &Arc<Gpu>, bytes: u64, what: impl Display) -> Result<DeviceBuffer> {
        gpu.enter()?;
        let size = usize::try_from(bytes.max(1)).map_err(|_| Error::out_of_memory(format!("{what}: {bytes} bytes")))?;
        match gpu.hip().malloc(size) {
            Ok(pointer) => Ok(DeviceBuffer { gpu: Arc::clone(gpu), pointer, bytes }),
            Err(e) if e.is_out_of_memory() => Err(Error::out_of_memory(format!(
                "device {}: {what}: {:.1} MiB do not fit; free {} of {} MiB",
                gpu.facts.id(),
                bytes as f64 / f64::from(1 << 20),
                gpu.free_memory() >> 20,
                gpu.facts.memory >> 20
            ))),
            Err(e) => gpu.check(what, Err(e)),
        }
    }

    pub(crate) fn address(&self) -> u64 {
        self.pointer as u64
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn range(&self, offset: u64, bytes: usize) -> Result<*mut c_void> {
        let end = offset.checked_add(bytes as u64).filter(|&end| end <= self.bytes);
        if end.is_none() {
            return Err(Error::internal(format!("bytes {offset}.. of a buffer of {}", self.bytes)));
        }
        Ok(self.pointer.wrapping_byte_add(offset as usize))
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        if self.gpu.enter().is_ok() {
            // SAFETY: allocated by `new`, freed here only; no queued work uses it (the rule of this module).
            if let Err(e) = unsafe { self.gpu.hip().free(self.pointer) } {
                log!(Warn, "device {}: freeing {} bytes: {e}", self.gpu.facts.id(), self.bytes);
            }
        }
    }
}

/// Host memory that the device reads and writes by itself.
pub(crate) struct Pinned {
    gpu: Arc<Gpu>,
    pointer: *mut c_void,
    bytes: usize,
}

// SAFETY: memory owned by the value.
unsafe impl Send for Pinned {}

impl Pinned {
    pub(crate) fn new(gpu: &Arc<Gpu>, bytes: usize, what: impl Display) -> Result<Pinned> {
        gpu.enter()?;
        let bytes = bytes.max(16);
        let pointer = gpu.hip().host_malloc(bytes, hipHostMallocDefault);
        let pointer = gpu.check(format_args!("{what}: {bytes} bytes of pinned host memory"), pointer)?;
        let pinned = Pinned { gpu: Arc::clone(gpu), pointer, bytes };
        // SAFETY: just allocated with this size.
        unsafe { std::ptr::write_bytes(pointer.cast::<u8>(), 0, bytes) };
        Ok(pinned)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: allocated with this size, zeroed, and no queued copy writes it (the caller has waited).
        unsafe { std::slice::from_raw_parts(self.pointer.cast::<u8>(), self.bytes) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.cast::<u8>(), self.bytes) }
    }

    /// HIP aligns pinned memory to pages, so words fit.
    pub(crate) fn words_mut(&mut self) -> &mut [u32] {
        // SAFETY: as in `bytes_mut`; every bit pattern is a u32, and `align_to_mut` keeps to alignment and length.
        unsafe { self.bytes_mut().align_to_mut::<u32>() }.1
    }

    /// As [`words_mut`](Pinned::words_mut).
    pub(crate) fn words(&self) -> &[u32] {
        // SAFETY: every bit pattern is a u32, and `align_to` keeps to alignment and length.
        unsafe { self.bytes().align_to::<u32>() }.1
    }

    pub(crate) fn floats(&self) -> &[f32] {
        // SAFETY: every bit pattern is an f32, and `align_to` keeps to alignment and length.
        unsafe { self.bytes().align_to::<f32>() }.1
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.gpu.enter().is_ok() {
            // SAFETY: allocated by `new`, freed here only; no queued work uses it (the rule of this module).
            if let Err(e) = unsafe { self.gpu.hip().host_free(self.pointer) } {
                log!(Warn, "device {}: freeing pinned memory: {e}", self.gpu.facts.id());
            }
        }
    }
}

/// A queue of work that waits for no other.
pub(crate) struct Stream {
    gpu: Arc<Gpu>,
    handle: hipStream_t,
}

impl Stream {
    pub(crate) fn new(gpu: &Arc<Gpu>) -> Result<Stream> {
        gpu.enter()?;
        let handle = gpu.check("a stream", gpu.hip().create_stream())?;
        Ok(Stream { gpu: Arc::clone(gpu), handle })
    }

    pub(crate) fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    pub(crate) fn handle(&self) -> hipStream_t {
        self.handle
    }

    /// Queues a copy of the first bytes of `from` to `to`, from byte `offset` on.
    ///
    /// # Safety
    /// Both stay as they are until the stream has passed the copy.
    pub(crate) unsafe fn upload(&self, from: &Pinned, bytes: usize, to: &DeviceBuffer, offset: u64) -> Result<()> {
        // SAFETY: the caller's contract.
        unsafe { self.upload_from(from, 0, bytes, to, offset) }
    }

    /// The same for bytes from `start` on.
    ///
    /// # Safety
    /// As for [`upload`](Stream::upload).
    pub(crate) unsafe fn upload_from(
        &self,
        from: &Pinned,
        start: usize,
        bytes: usize,
        to: &DeviceBuffer,
        offset: u64,
    ) -> Result<()> {
        if start.checked_add(bytes).is_none_or(|end| end > from.bytes) {
            return Err(Error::internal(format!("bytes {start}.. of a buffer of {}", from.bytes)));
        }
        let to = to.range(offset, bytes)?;
        let from = from.pointer.wrapping_byte_add(start);
        // SAFETY: both ranges were checked; their life is the caller's.
        let queued = unsafe { self.gpu.hip().memcpy_async(to, from, bytes, hipMemcpyHostToDevice, self.handle) };
        self.gpu.check("a copy to the device", queued)
    }

    /// Queues a copy from device address `from` to `to`, from byte `offset` on.
    ///
    /// # Safety
    /// The addresses are valid, and both stay as they are until the stream has passed the copy.
    pub(crate) unsafe fn download(&self, from: u64, bytes: usize, to: &Pinned, offset: usize) -> Result<()> {
        if offset.checked_add(bytes).is_none_or(|end| end > to.bytes) {
            return Err(Error::internal(format!("bytes {offset}.. of a buffer of {}", to.bytes)));
        }
        let to = to.pointer.wrapping_byte_add(offset);
        let from = from as *const c_void;
        // SAFETY: the target was checked; for the source the caller vouches.
        let queued = unsafe { self.gpu.hip().memcpy_async(to, from, bytes, hipMemcpyDeviceToHost, self.handle) };
        self.gpu.check("a copy from the device", queued)
    }

    /// Queues zeros over a whole buffer.
    ///
    /// # Safety
    /// It stays until the stream has passed this.
    pub(crate) unsafe fn clear(&self, buffer: &DeviceBuffer) -> Result<()> {
        let bytes = usize::try_from(buffer.bytes).map_err(Error::internal)?;
        // SAFETY: the whole of a buffer; its life is the caller's.
        let queued = unsafe { self.gpu.hip().memset_async(buffer.pointer, 0, bytes, self.handle) };
        self.gpu.check("clearing memory", queued)
    }

    /// Queues a kernel.
    ///
    /// # Safety
    /// Every address in the arguments is valid for what the kernel does with it until the stream has passed this.
    pub(crate) unsafe fn launch(&self, launch: &Launch) -> Result<()> {
        // SAFETY: the caller's contract.
        unsafe { self.gpu.launch(launch, self.handle) }
    }

    /// Waits until everything queued is done. A device that does not answer in time is lost.
    pub(crate) fn wait(&self, patience: Duration) -> Result<()> {
        self.gpu.enter()?;
        let start = Instant::now();
        loop {
            // SAFETY: the stream lives as long as the value.
            let done = unsafe { self.gpu.hip().query_stream(self.handle) };
            if self.gpu.check("waiting for a step", done)? {
                return Ok(());
            }
            let waited = start.elapsed();
            if waited > patience {
                self.gpu.lose();
                return Err(Error::device(format!(
                    "device {}: no answer for {} s (option timeout_seconds), so it counts as hung",
                    self.gpu.facts.id(),
                    patience.as_secs()
                )));
            }
            match waited < EAGER {
                true => std::thread::yield_now(),
                false => std::thread::sleep(Duration::from_micros(50)),
            }
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.gpu.enter().is_ok() {
            // SAFETY: created by `new`, destroyed here only.
            let _ = unsafe { self.gpu.hip().destroy_stream(self.handle) };
        }
    }
}

/// A point in a stream.
pub(crate) struct Event {
    gpu: Arc<Gpu>,
    handle: hipEvent_t,
}

impl Event {
    /// With `timing`, time can be measured between two.
    pub(crate) fn new(gpu: &Arc<Gpu>, timing: bool) -> Result<Event> {
        gpu.enter()?;
        let flags = if timing { hipEventDefault } else { hipEventDisableTiming };
        let handle = gpu.check("an event", gpu.hip().create_event(flags))?;
        Ok(Event { gpu: Arc::clone(gpu), handle })
    }

    /// Puts it at the end of what is queued.
    pub(crate) fn record(&self, stream: &Stream) -> Result<()> {
        // SAFETY: both live, and on one device.
        self.gpu.check("an event", unsafe { self.gpu.hip().record_event(self.handle, stream.handle) })
    }

    /// Microseconds from an earlier event to this one; both have happened.
    pub(crate) fn microseconds_since(&self, earlier: &Event) -> Result<f64> {
        // SAFETY: both live.
        let elapsed = unsafe { self.gpu.hip().elapsed_milliseconds(earlier.handle, self.handle) };
        self.gpu.check("the time between two events", elapsed).map(|ms| f64::from(ms) * 1000.0)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.gpu.enter().is_ok() {
            // SAFETY: created by `new`, destroyed here only.
            let _ = unsafe { self.gpu.hip().destroy_event(self.handle) };
        }
    }
}
