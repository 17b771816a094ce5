//! What is remembered for a while.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasherDefault, Hash, Hasher};

use crate::clock::Timestamp;

/// Takes eight bytes of each part of a name. Names are random or SHA-256: nobody chooses which of them collide, so a
/// keyed hash would guard nothing and cost as much as the rest of the look-up.
#[derive(Default)]
pub(super) struct NameHasher(u64);

impl NameHasher {
    fn mix(&mut self, word: u64) {
        // An odd multiplier spreads the low bits upwards, where the standard map takes its tags from.
        self.0 = (self.0.rotate_left(29) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

impl Hasher for NameHasher {
    fn write(&mut self, bytes: &[u8]) {
        // Not the first bytes: those of a bucket begin alike.
        let part = bytes.get(8..16).unwrap_or(bytes);
        let mut word = [0; 8];
        for (to, from) in word.iter_mut().zip(part) {
            *to = *from;
        }
        self.mix(u64::from_ne_bytes(word));
    }

    fn write_u64(&mut self, word: u64) {
        self.mix(word);
    }

    fn write_usize(&mut self, word: usize) {
        self.mix(word as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

struct Held<V> {
    value: V,
    until: Timestamp,
    /// When the heap's item for it comes up; an item of another time is left over from before.
    queued: Timestamp,
}

struct Due<K> {
    at: Timestamp,
    key: K,
}

impl<K> PartialEq for Due<K> {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl<K> Eq for Due<K> {}

impl<K> PartialOrd for Due<K> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<K> Ord for Due<K> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

/// A map whose values end by themselves.
pub(super) struct Expiring<K, V> {
    map: HashMap<K, Held<V>, BuildHasherDefault<NameHasher>>,
    heap: BinaryHeap<Reverse<Due<K>>>,
}

impl<K, V> Default for Expiring<K, V> {
    fn default() -> Self {
        Self {
            map: HashMap::default(),
            heap: BinaryHeap::new(),
        }
    }
}

impl<K: Copy + Eq + Hash, V> Expiring<K, V> {
    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    pub(super) fn get(&self, key: &K, now: Timestamp) -> Option<&V> {
        let held = self.map.get(key)?;
        (held.until > now).then_some(&held.value)
    }

    /// The value with its end.
    pub(super) fn get_mut(&mut self, key: &K, now: Timestamp) -> Option<(&mut V, Timestamp)> {
        let held = self.map.get_mut(key)?;
        (held.until > now).then_some((&mut held.value, held.until))
    }

    /// Returns what was there before, ended or not.
    pub(super) fn insert(&mut self, key: K, value: V, until: Timestamp) -> Option<V> {
        if let Some(held) = self.map.get_mut(&key) {
            held.until = until;
            // An item that comes up too early is put back then; one that would come up too late is not good enough.
            if until < held.queued {
                held.queued = until;
                self.heap.push(Reverse(Due { at: until, key }));
            }
            return Some(std::mem::replace(&mut held.value, value));
        }
        let queued = until;
        self.map.insert(
            key,
            Held {
                value,
                until,
                queued,
            },
        );
        self.heap.push(Reverse(Due { at: until, key }));
        None
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let held = self.map.remove(key)?;
        if self.heap.len() > self.map.len() * 2 + 64 {
            let map = &self.map;
            self.heap
                .retain(|Reverse(due)| map.get(&due.key).is_some_and(|held| held.queued == due.at));
        }
        Some(held.value)
    }

    /// When the first may end.
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.heap.peek().map(|Reverse(due)| due.at)
    }

    /// Takes out the one that ends first, ended or not.
    pub(super) fn pop_first(&mut self) -> Option<(V, Timestamp)> {
        self.pop_before(None)
    }

    /// Takes out one that has ended.
    pub(super) fn pop_ended(&mut self, now: Timestamp) -> Option<V> {
        let value = self.pop_before(Some(now)).map(|(value, _)| value);
        if value.is_some() && self.map.capacity() > self.map.len() * 8 + 64 {
            self.map.shrink_to(self.map.len() * 2);
            self.heap.shrink_to(self.heap.len() * 2);
        }
        value
    }

    fn pop_before(&mut self, now: Option<Timestamp>) -> Option<(V, Timestamp)> {
        loop {
            let first = self.next()?;
            if now.is_some_and(|now| first > now) {
                return None;
            }
            let Reverse(due) = self.heap.pop()?;
            let Some(held) = self.map.get_mut(&due.key) else {
                continue;
            };
            if held.queued != due.at {
                continue;
            }
            if held.until > due.at {
                held.queued = held.until;
                let at = held.until;
                self.heap.push(Reverse(Due { at, key: due.key }));
                continue;
            }
            let held = self.map.remove(&due.key)?;
            return Some((held.value, held.until));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_secs(seconds)
    }

    #[test]
    fn what_is_prolonged_or_shortened_ends_at_its_new_time() {
        let mut map = Expiring::<u64, char>::default();
        map.insert(1, 'a', at(10));
        map.insert(2, 'b', at(20));
        assert_eq!(map.insert(1, 'c', at(30)), Some('a'));
        map.insert(2, 'd', at(5));
        assert_eq!(map.pop_ended(at(4)), None);
        assert_eq!(map.pop_ended(at(5)), Some('d'));
        assert_eq!(map.pop_ended(at(29)), None);
        assert_eq!(map.get(&1, at(29)), Some(&'c'));
        assert_eq!(map.get(&1, at(30)), None);
        assert_eq!(map.pop_first(), Some(('c', at(30))));
        assert_eq!(map.pop_first(), None);
    }

    #[test]
    fn what_was_removed_leaves_nothing_behind() {
        let mut map = Expiring::<u64, ()>::default();
        for n in 0..10_000 {
            map.insert(n, (), at(1_000_000));
            map.remove(&n);
        }
        assert!(map.heap.len() <= 65, "{}", map.heap.len());
    }
}
