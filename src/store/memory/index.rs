//! A hash index over slots that are kept elsewhere.
//!
//! A `HashMap` would hold every name a second time: 16 to 32 bytes each, at half load twice that. Here a cell is eight
//! bytes, and the name is compared where the slot is.

/// No slot.
pub(super) const NONE: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Cell {
    tag: u32,
    slot: u32,
}

const EMPTY: Cell = Cell { tag: 0, slot: NONE };

/// Maps 32 bits of a hash to slots: open addressing with linear probing, at most three quarters full.
#[derive(Default)]
pub(super) struct Index {
    /// Empty, or a power of two.
    cells: Box<[Cell]>,
    len: usize,
}

/// The 32 bits of a name that the index uses. Names are random or SHA-256, so any bits will do, except the first byte,
/// which is the same for all of a bucket.
pub(super) fn tag(name: &[u8]) -> u32 {
    match name.get(8..12) {
        Some(&[a, b, c, d]) => u32::from_ne_bytes([a, b, c, d]),
        _ => 0,
    }
}

impl Index {
    fn mask(&self) -> usize {
        self.cells.len().wrapping_sub(1)
    }

    fn position(&self, tag: u32, is: impl Fn(u32) -> bool) -> Option<usize> {
        if self.cells.is_empty() {
            return None;
        }
        let mut at = tag as usize & self.mask();
        loop {
            let cell = self.cells[at];
            if cell.slot == NONE {
                return None;
            }
            if cell.tag == tag && is(cell.slot) {
                return Some(at);
            }
            at = (at + 1) & self.mask();
        }
    }

    /// The slot that `is` recognises.
    pub(super) fn find(&self, tag: u32, is: impl Fn(u32) -> bool) -> Option<u32> {
        self.position(tag, is).map(|at| self.cells[at].slot)
    }

    /// Adds a slot that is not there yet.
    pub(super) fn insert(&mut self, tag: u32, slot: u32) {
        if (self.len + 1) * 4 > self.cells.len() * 3 {
            self.grow();
        }
        self.put(Cell { tag, slot });
        self.len += 1;
    }

    /// Lets the cell of one slot point to another of the same name.
    pub(super) fn replace(&mut self, tag: u32, slot: u32, by: u32) {
        if let Some(at) = self.position(tag, |have| have == slot) {
            self.cells[at].slot = by;
        }
    }

    pub(super) fn remove(&mut self, tag: u32, slot: u32) {
        let Some(mut hole) = self.position(tag, |have| have == slot) else {
            return;
        };
        self.len -= 1;
        // What stands behind the hole moves up unless it would then stand before its own place: no tombstones, so
        // that a table through which millions pass stays as fast as a fresh one.
        let mut at = hole;
        loop {
            at = (at + 1) & self.mask();
            let cell = self.cells[at];
            if cell.slot == NONE {
                break;
            }
            let home = cell.tag as usize & self.mask();
            if (at.wrapping_sub(home) & self.mask()) >= (at.wrapping_sub(hole) & self.mask()) {
                self.cells[hole] = cell;
                hole = at;
            }
        }
        self.cells[hole] = EMPTY;
    }

    fn put(&mut self, cell: Cell) {
        let mut at = cell.tag as usize & self.mask();
        while self.cells[at].slot != NONE {
            at = (at + 1) & self.mask();
        }
        self.cells[at] = cell;
    }

    fn grow(&mut self) {
        let size = (self.cells.len() * 2).max(8);
        let old = std::mem::replace(&mut self.cells, vec![EMPTY; size].into());
        for cell in old {
            if cell.slot != NONE {
                self.put(cell);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_agrees_with_a_list_through_ten_thousand_changes() {
        // Few tags, so that cells collide and wrap around.
        let tag = |slot: u32| slot.wrapping_mul(7) % 13;
        let mut index = Index::default();
        let mut list: Vec<u32> = Vec::new();
        let mut seed = 1u32;
        for step in 0..10_000 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let slot = (seed >> 16) % 50;
            match list.iter().position(|have| *have == slot) {
                Some(at) => {
                    index.remove(tag(slot), slot);
                    list.swap_remove(at);
                }
                None => {
                    index.insert(tag(slot), slot);
                    list.push(slot);
                }
            }
            for slot in 0..50 {
                let found = index.find(tag(slot), |have| have == slot);
                assert_eq!(found.is_some(), list.contains(&slot), "step {step}");
            }
        }
    }

    #[test]
    fn an_empty_index_finds_and_removes_nothing() {
        let mut index = Index::default();
        assert_eq!(index.find(1, |_| true), None);
        index.remove(1, 1);
        index.replace(1, 1, 2);
    }
}
