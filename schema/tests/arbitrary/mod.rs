//! Seeded random messages of every variant.

mod audit;
mod data;
mod locks;
mod messages;
mod repair;
mod replies;
mod requests;
mod trace;
mod values;

use std::collections::BTreeSet;

use bytes::Bytes;

pub struct Generator {
    state: u64,
    /// (type, variant) of every choice made, and how many variants each type has.
    seen: BTreeSet<(&'static str, u64)>,
    variants: BTreeSet<(&'static str, u64)>,
}

impl Generator {
    pub fn new(seed: u64) -> Generator {
        Generator {
            state: seed,
            seen: BTreeSet::new(),
            variants: BTreeSet::new(),
        }
    }

    pub fn assert_all_variants_seen(&self) {
        for (name, count) in &self.variants {
            for variant in 0..*count {
                assert!(
                    self.seen.contains(&(*name, variant)),
                    "{name} {variant} was never made"
                );
            }
        }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.state;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    fn choose(&mut self, name: &'static str, count: u64) -> u64 {
        let variant = self.next() % count;
        self.seen.insert((name, variant));
        self.variants.insert((name, count));
        variant
    }

    /// Often zero, the largest or small: the edges.
    fn number(&mut self) -> u64 {
        match self.next() % 4 {
            0 => 0,
            1 => u64::MAX,
            2 => self.next() % 100,
            _ => self.next(),
        }
    }

    fn u32(&mut self) -> u32 {
        self.number() as u32
    }

    fn i64(&mut self) -> i64 {
        self.number() as i64
    }

    fn flag(&mut self) -> bool {
        self.next().is_multiple_of(2)
    }

    fn data(&mut self) -> Bytes {
        let length = [0, 1, 7, 8, 9, 300][(self.next() % 6) as usize];
        (0..length).map(|_| self.next() as u8).collect()
    }

    fn text(&mut self) -> String {
        ["", "a", "node-1", "Zürich ☃ with a\0 zero"][(self.next() % 4) as usize].into()
    }

    fn list<T>(&mut self, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.next() % 4).map(|_| make(self)).collect()
    }

    fn option<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.flag().then(|| make(self))
    }
}
