//! Device memory and pinned memory: host memory with an account of what is whose.

use std::alloc::{Layout, alloc, dealloc};
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// Where memory belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// To a device.
    Device(i32),
    /// To the host, pinned.
    Pinned,
}

/// One allocation.
pub struct Allocation {
    /// Bytes that were asked for.
    pub bytes: usize,
    /// Where it belongs.
    pub place: Place,
    /// Which allocation of the process it is, from 1.
    pub number: u64,
    layout: Layout,
}

/// Every allocation, by its first byte.
#[derive(Default)]
pub struct Memory {
    live: BTreeMap<usize, Allocation>,
    count: u64,
    /// The last addresses that were freed, to tell a double free from a wrong pointer.
    freed: Vec<usize>,
}

const ALIGNMENT: usize = 256;
/// Bytes after an allocation that nobody may change.
const TAIL_BYTES: usize = 64;
const TAIL: u8 = 0xc7;
/// What new device memory is full of: not-a-number in every float format.
const FRESH: u8 = 0xff;

/// Whether this process runs under the address sanitizer, which watches the ends of allocations itself.
pub fn sanitised() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| crate::image::global_symbol("__asan_init"))
}

impl Memory {
    /// Allocates. `None` if the host has too little memory.
    pub fn allocate(&mut self, bytes: usize, place: Place) -> Option<usize> {
        let tail = if sanitised() { 0 } else { TAIL_BYTES };
        let layout = Layout::from_size_align(bytes.checked_add(tail)?.max(1), ALIGNMENT).ok()?;
        // SAFETY: the layout is of at least one byte.
        let pointer = unsafe { alloc(layout) };
        if pointer.is_null() {
            return None;
        }
        // SAFETY: within the allocation just made.
        unsafe {
            pointer.write_bytes(FRESH, bytes);
            pointer.add(bytes).write_bytes(TAIL, tail);
        }
        self.count += 1;
        self.freed.retain(|address| *address != pointer as usize);
        self.live.insert(pointer as usize, Allocation { bytes, place, number: self.count, layout });
        Some(pointer as usize)
    }

    /// Frees. Whether the bytes after the allocation were still as they should be is part of the answer.
    ///
    /// # Errors
    /// The address is not that of an allocation of this kind; what it is instead.
    pub fn free(&mut self, address: usize, pinned: bool) -> Result<(Allocation, bool), String> {
        let expected = if pinned { "pinned memory" } else { "device memory" };
        match self.live.get(&address).map(|a| a.place == Place::Pinned) {
            Some(found) if found == pinned => {}
            Some(_) => return Err(format!("{address:#x} is not {expected}")),
            None if self.freed.contains(&address) => return Err(format!("{address:#x} is freed twice")),
            None => return Err(format!("{address:#x} is not the first byte of an allocation")),
        }
        let Some(allocation) = self.live.remove(&address) else { return Err(expected.to_owned()) };
        let pointer = address as *mut u8;
        let tail = allocation.layout.size() - allocation.bytes;
        // SAFETY: the bytes of the allocation that follow those that were asked for; nobody else uses it any more.
        let intact = unsafe {
            let after = std::slice::from_raw_parts(pointer.add(allocation.bytes), tail);
            let intact = sanitised() || after.iter().all(|b| *b == TAIL);
            dealloc(pointer, allocation.layout);
            intact
        };
        if self.freed.len() >= 4096 {
            self.freed.drain(..2048);
        }
        self.freed.push(address);
        Ok((allocation, intact))
    }

    /// The allocation that a range begins in.
    fn at(&self, address: usize) -> Option<(usize, &Allocation)> {
        let (start, allocation) = self.live.range(..=address).next_back()?;
        (address - start < allocation.bytes.max(1)).then_some((*start, allocation))
    }

    /// Where the memory of a range belongs; `None` for the host's own memory.
    ///
    /// # Errors
    /// The range begins in an allocation and ends outside of it.
    pub fn place(&self, address: usize, bytes: usize) -> Result<Option<Place>, String> {
        let Some((start, allocation)) = self.at(address) else { return Ok(None) };
        let offset = address - start;
        if bytes > allocation.bytes - offset {
            let (number, size) = (allocation.number, allocation.bytes);
            return Err(format!(
                "bytes {offset} to {} of allocation {number}, which has {size}",
                offset.saturating_add(bytes)
            ));
        }
        Ok(Some(allocation.place))
    }

    /// Bytes of a device's memory that are in use.
    pub fn used(&self, device: i32) -> usize {
        self.live.values().filter(|a| a.place == Place::Device(device)).map(|a| a.bytes).sum()
    }

    /// Every allocation that was not freed.
    pub fn live(&self) -> impl Iterator<Item = &Allocation> {
        self.live.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frees_of_the_wrong_kind_twice_or_of_the_middle_are_told_apart() {
        let mut memory = Memory::default();
        let device = memory.allocate(100, Place::Device(0)).expect("memory");
        let pinned = memory.allocate(100, Place::Pinned).expect("memory");
        let check = |memory: &mut Memory, address, is_pinned, part: &str| {
            let found = memory.free(address, is_pinned).err().unwrap_or_default();
            assert!(found.contains(part), "expected '{part}', found '{found}'");
        };
        check(&mut memory, device + 8, false, "not the first byte");
        check(&mut memory, device, true, "is not pinned memory");
        check(&mut memory, pinned, false, "is not device memory");
        assert!(memory.free(device, false).expect("a live allocation").1);
        check(&mut memory, device, false, "freed twice");
        assert_eq!(memory.live().count(), 1);
        assert!(memory.free(pinned, true).is_ok());
    }

    #[test]
    fn writing_behind_an_allocation_is_noticed_at_its_end() {
        if sanitised() {
            println!("skipped: the address sanitizer would end the test");
            return;
        }
        let mut memory = Memory::default();
        let address = memory.allocate(100, Place::Device(0)).expect("memory");
        // SAFETY: within the tail that follows the allocation.
        unsafe { ((address + 100) as *mut u8).write(0) };
        assert!(!memory.free(address, false).expect("a live allocation").1);
    }

    #[test]
    fn ranges_belong_where_their_allocation_does_or_end_outside_of_it() {
        let mut memory = Memory::default();
        let address = memory.allocate(100, Place::Device(1)).expect("memory");
        assert_eq!(memory.used(1), 100);
        assert_eq!(memory.place(address + 10, 90), Ok(Some(Place::Device(1))));
        assert!(memory.place(address + 10, 91).is_err_and(|e| e.contains("bytes 10 to 101")));
        let own = 0u64;
        assert_eq!(memory.place(&raw const own as usize, 8), Ok(None));
        assert!(memory.free(address, false).is_ok());
    }
}
