//! In which order the packets of one turn go to one subscriber, so that as few sends as possible carry them.
//!
//! A segmented send (GSO) takes datagrams of one size and a shorter last one. The kernel charges per send, so
//! packets of several tracks are put in an order that makes long runs: equal sizes together, what is shorter at
//! the end of a run. Packets of one track never pass each other. RTP padding (RFC 3550 §5.1) makes sizes equal
//! that nearly are: encoders cut a frame into packets that differ by a byte, and speakers' packets by some.
//!
//! Pure: lengths in, places out.

/// How far packets may be changed for the sake of longer runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coalescing {
    /// Packets in one run, at least 1.
    pub segments_max: usize,
    /// How much longer than it was a packet may become, in percent of the run's segment size; 0: no padding.
    pub padding_percent: u8,
}

/// A packet's length as it will leave, and the strand it belongs to: packets of one strand keep their order.
/// Strands count up from 0, each after the last packet of the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    pub strand: u32,
    pub len: u32,
}

/// A packet in the order of sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// Its place among the items.
    pub at: usize,
    /// Bytes of padding, the count byte included.
    pub padding: u8,
}

/// Finds orders; kept between turns for its memory, and because most subscribers get the same packets.
#[derive(Debug, Default)]
pub struct Coalescer {
    items: Vec<Item>,
    placed: Vec<Placed>,
    strands: Vec<Strand>,
}

/// What is left of one strand.
#[derive(Debug, Clone, Copy)]
struct Strand {
    next: usize,
    end: usize,
}

impl Coalescer {
    /// The order of sending. Every item is in it once.
    pub fn arrange(&mut self, items: &[Item], how: Coalescing) -> &[Placed] {
        if self.items != items {
            self.items.clear();
            self.items.extend_from_slice(items);
            self.rearrange(how);
        }
        &self.placed
    }

    /// To be called when `how` changes.
    pub fn forget(&mut self) {
        self.items.clear();
        self.placed.clear();
    }

    fn rearrange(&mut self, how: Coalescing) {
        self.placed.clear();
        self.strands.clear();
        for (at, item) in self.items.iter().enumerate() {
            if self.strands.len() <= item.strand as usize {
                self.strands.push(Strand { next: at, end: at });
            }
            if let Some(strand) = self.strands.last_mut() {
                strand.end = at + 1;
            }
        }
        while self.placed.len() < self.items.len() {
            self.place_run(how);
        }
    }

    /// The longest run that can begin now, with the largest packet that is next.
    fn place_run(&mut self, how: Coalescing) {
        let heads = self.heads().max_by_key(|&(strand, len)| (len, std::cmp::Reverse(strand)));
        let Some((first, _)) = heads else { return };
        let size = self.segment_size(first, how);
        self.take(first, size);
        for _ in 1..how.segments_max {
            match self.equal(size, how) {
                Some(strand) => self.take(strand, size),
                None => {
                    if let Some(strand) = self.shorter(size) {
                        self.take(strand, size);
                    }
                    break;
                }
            }
        }
        // Nothing follows the last one that it would have to be as long for.
        if let Some(last) = self.placed.last_mut() {
            last.padding = 0;
        }
    }

    /// The size that the first packets of a strand can all be padded to.
    fn segment_size(&self, strand: usize, how: Coalescing) -> u32 {
        let Some(Strand { next, end }) = self.strands.get(strand) else { return 0 };
        let lens = self.items.get(*next..*end).unwrap_or(&[]).iter().map(|item| item.len);
        let (mut least, mut size) = (u32::MAX, 0);
        for len in lens.take(how.segments_max) {
            let wider = (least.min(len), size.max(len));
            if wider.1 - wider.0 > how.padding_max(wider.1) {
                break;
            }
            (least, size) = wider;
        }
        size
    }

    /// The strand whose next packet is closest to `size` of those that can be padded to it.
    fn equal(&self, size: u32, how: Coalescing) -> Option<usize> {
        let fits = |&(_, len): &(usize, u32)| len <= size && size - len <= how.padding_max(size);
        let heads = self.heads().filter(fits);
        heads.max_by_key(|&(strand, len)| (len, std::cmp::Reverse(strand))).map(|(strand, _)| strand)
    }

    /// The strand whose next packet ends a run best: one that could not begin a run of its own, and of those
    /// the largest.
    fn shorter(&self, size: u32) -> Option<usize> {
        let heads = self.heads().filter(|&(_, len)| len < size);
        let rank = |&(strand, len): &(usize, u32)| (!self.begins_run(strand), len);
        heads.max_by_key(rank).map(|(strand, _)| strand)
    }

    /// Whether the first two packets of a strand are of one size.
    fn begins_run(&self, strand: usize) -> bool {
        let Some(Strand { next, end }) = self.strands.get(strand) else { return false };
        match self.items.get(*next..*end) {
            Some([first, second, ..]) => first.len == second.len,
            _ => false,
        }
    }

    fn heads(&self) -> impl Iterator<Item = (usize, u32)> {
        let head = |(at, strand): (usize, &Strand)| {
            let item = self.items.get(strand.next).filter(|_| strand.next < strand.end)?;
            Some((at, item.len))
        };
        self.strands.iter().enumerate().filter_map(head)
    }

    fn take(&mut self, strand: usize, size: u32) {
        let Some(strand) = self.strands.get_mut(strand) else { return };
        let Some(item) = self.items.get(strand.next) else { return };
        self.placed.push(Placed { at: strand.next, padding: size.saturating_sub(item.len).min(255) as u8 });
        strand.next += 1;
    }
}

impl Coalescing {
    /// Bytes of padding in a packet that is `size` bytes long with it; one byte counts them.
    fn padding_max(self, size: u32) -> u32 {
        (size * u32::from(self.padding_percent) / 100).min(255)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn items(strands: &[&[u32]]) -> Vec<Item> {
        let strands = (0..).zip(strands);
        strands.flat_map(|(strand, lens)| lens.iter().map(move |&len| Item { strand, len })).collect()
    }

    /// Lengths in the order of sending, padded, cut into runs.
    fn runs(items: &[Item], how: Coalescing) -> Vec<Vec<u32>> {
        let mut coalescer = Coalescer::default();
        let mut runs: Vec<Vec<u32>> = Vec::new();
        for placed in coalescer.arrange(items, how) {
            let len = items[placed.at].len + u32::from(placed.padding);
            match runs.last_mut() {
                Some(run)
                    if run[0] == *run.last().unwrap() && len <= run[0] && run.len() < how.segments_max =>
                {
                    run.push(len);
                }
                _ => runs.push(vec![len]),
            }
        }
        runs
    }

    const PLAIN: Coalescing = Coalescing { segments_max: 8, padding_percent: 0 };
    const PADDED: Coalescing = Coalescing { segments_max: 8, padding_percent: 10 };

    #[test]
    fn two_speakers_share_a_send_in_either_order() {
        assert_eq!(runs(&items(&[&[90], &[120]]), PLAIN), [[120, 90]]);
        assert_eq!(runs(&items(&[&[120], &[90]]), PLAIN), [[120, 90]]);
    }

    #[test]
    fn third_speaker_needs_padding_to_share_it_too() {
        let three = items(&[&[114], &[120], &[60]]);
        assert_eq!(runs(&three, PLAIN), [&[120, 114][..], &[60]]);
        assert_eq!(runs(&three, PADDED), [[120, 120, 60]]);
    }

    #[test]
    fn frame_cut_into_nearly_equal_packets_is_one_run() {
        let frame = items(&[&[1_100, 1_100, 1_101, 1_101, 1_101]]);
        assert_eq!(runs(&frame, PLAIN), [&[1_100, 1_100][..], &[1_101, 1_101, 1_101]]);
        assert_eq!(runs(&frame, PADDED), [[1_101; 5]]);
    }

    #[test]
    fn run_ends_with_what_begins_no_run_of_its_own() {
        let two = items(&[&[1_200, 1_200, 700], &[1_100, 1_100, 300]]);
        assert_eq!(runs(&two, PLAIN), [[1_200, 1_200, 700], [1_100, 1_100, 300]]);
    }

    #[test]
    fn long_burst_is_cut() {
        let burst = items(&[&[1_200; 20]]);
        assert_eq!(runs(&burst, PLAIN).iter().map(Vec::len).collect::<Vec<_>>(), [8, 8, 4]);
    }

    #[test]
    fn same_packets_for_the_next_subscriber_are_not_arranged_again() {
        let mut coalescer = Coalescer::default();
        let two = items(&[&[90], &[120]]);
        let first = coalescer.arrange(&two, PLAIN).to_vec();
        assert_eq!(coalescer.arrange(&two, PLAIN), first);
        assert_eq!(coalescer.arrange(&items(&[&[90]]), PLAIN).len(), 1);
        assert!(coalescer.arrange(&[], PLAIN).is_empty());
    }

    proptest! {
        #[test]
        fn every_packet_leaves_once_in_the_order_of_its_strand_and_little_longer(
            strands in prop::collection::vec(prop::collection::vec(
                prop_oneof![Just(1_200_u32), 1_195_u32..1_200, 40_u32..200], 1..12), 0..6),
            padding_percent in 0u8..20,
        ) {
            let how = Coalescing { segments_max: 8, padding_percent };
            let slices: Vec<_> = strands.iter().map(Vec::as_slice).collect();
            let items = items(&slices);
            let mut coalescer = Coalescer::default();
            let placed = coalescer.arrange(&items, how).to_vec();
            let mut seen: Vec<_> = placed.iter().map(|p| p.at).collect();
            for strand in 0..strands.len() as u32 {
                let of_strand: Vec<_> = seen.iter().filter(|at| items[**at].strand == strand).collect();
                prop_assert!(of_strand.is_sorted());
            }
            seen.sort();
            prop_assert!(seen.into_iter().eq(0..items.len()));
            for p in &placed {
                let padded = items[p.at].len + u32::from(p.padding);
                prop_assert!(u32::from(p.padding) <= padded * u32::from(padding_percent) / 100);
            }
        }
    }
}
