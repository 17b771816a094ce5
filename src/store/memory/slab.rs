//! Slots with numbers.

/// Most of a chunk is used at once when a bucket fills; a lone sign-in reserves one.
const CHUNK: usize = 32;

/// Values in numbered slots. Grows by chunks: a vector would copy everything when it grows, under the lock, and leave up
/// to half of itself unused. Chunks are kept for later use.
pub(super) struct Slab<T> {
    chunks: Vec<Box<[Option<T>]>>,
    free: Vec<u32>,
    len: usize,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self {
            chunks: Vec::new(),
            free: Vec::new(),
            len: 0,
        }
    }
}

impl<T> Slab<T> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// One more than the highest number that was ever given out.
    pub(super) fn bound(&self) -> u32 {
        (self.chunks.len() * CHUNK) as u32
    }

    pub(super) fn get(&self, slot: u32) -> Option<&T> {
        let slot = slot as usize;
        self.chunks.get(slot / CHUNK)?[slot % CHUNK].as_ref()
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        let slot = slot as usize;
        self.chunks.get_mut(slot / CHUNK)?[slot % CHUNK].as_mut()
    }

    pub(super) fn insert(&mut self, value: T) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            let first = self.bound();
            self.chunks.push((0..CHUNK).map(|_| None).collect());
            self.free.extend((first + 1..first + CHUNK as u32).rev());
            first
        });
        self.chunks[slot as usize / CHUNK][slot as usize % CHUNK] = Some(value);
        self.len += 1;
        slot
    }

    pub(super) fn remove(&mut self, slot: u32) -> Option<T> {
        let at = slot as usize;
        let value = self.chunks.get_mut(at / CHUNK)?[at % CHUNK].take()?;
        self.free.push(slot);
        self.len -= 1;
        Some(value)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flatten().flatten()
    }
}
