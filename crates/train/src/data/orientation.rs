//! Which way up a photograph is.

use exif::{In, Tag};

use super::decode::Pixels;

/// Exif's orientation, 1 to 8: on which sides of the picture the file's first row and its first column are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Orientation(u32);

impl Orientation {
    /// As the file has it.
    pub(super) const UPRIGHT: Self = Self(1);

    /// From Exif data, which begin with their byte order: that of the first directory; upright where there is none, or a
    /// value that means nothing.
    pub(super) fn of_exif(data: &[u8]) -> Self {
        // Other fields may be damaged.
        let read = exif::Reader::new().continue_on_error(true).read_raw(data.to_vec());
        let read = read.or_else(|error| error.distill_partial_result(|_| {})).ok();
        let value = read.and_then(|read| read.get_field(Tag::Orientation, In::PRIMARY)?.value.get_uint(0));
        value.filter(|value| (1..=8).contains(value)).map_or(Self::UPRIGHT, Self)
    }

    /// The picture as it is to be looked at.
    pub(super) fn upright(self, from: Pixels) -> Pixels {
        if self == Self::UPRIGHT {
            return from;
        }
        let Self(value) = self;
        // 5 to 8: the file's rows are the picture's columns.
        let exchanged = value >= 5;
        let (rows_back, columns_back) = (matches!(value, 3 | 4 | 6 | 7), matches!(value, 2 | 3 | 7 | 8));
        let (width, height) = if exchanged { (from.height, from.width) } else { (from.width, from.height) };
        let mut bytes = Vec::with_capacity(from.bytes.len());
        for y in 0..height {
            for x in 0..width {
                let (row, column) = if exchanged { (x, y) } else { (y, x) };
                let row = if rows_back { from.height - 1 - row } else { row };
                let column = if columns_back { from.width - 1 - column } else { column };
                let at = (row * from.width + column) * from.channels;
                bytes.extend_from_slice(from.bytes.get(at..at + from.channels).unwrap_or_default());
            }
        }
        Pixels { width, height, channels: from.channels, bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: u16 = 0x0112;
    const SHORT: u16 = 3;

    fn exif(little: bool, tag: u16, value: u16) -> Vec<u8> {
        let short = |v: u16| if little { v.to_le_bytes() } else { v.to_be_bytes() };
        let long = |v: u32| if little { v.to_le_bytes() } else { v.to_be_bytes() };
        let mut bytes = if little { b"II".to_vec() } else { b"MM".to_vec() };
        bytes.extend(short(42));
        bytes.extend(long(8));
        bytes.extend(short(2));
        for (tag, value) in [(0x0100, 640), (tag, value)] {
            bytes.extend([short(tag), short(SHORT)].concat());
            bytes.extend(long(1));
            bytes.extend([short(value), short(0)].concat());
        }
        // No directory follows.
        bytes.extend(long(0));
        bytes
    }

    #[test]
    fn the_tag_is_found_in_both_byte_orders_and_nothing_else_is() {
        for little in [true, false] {
            assert_eq!(Orientation::of_exif(&exif(little, TAG, 6)), Orientation(6));
            assert_eq!(Orientation::of_exif(&exif(little, TAG, 9)), Orientation::UPRIGHT);
            assert_eq!(Orientation::of_exif(&exif(little, TAG + 1, 6)), Orientation::UPRIGHT);
            let whole = exif(little, TAG, 6);
            for end in 0..whole.len() - 6 {
                assert_eq!(Orientation::of_exif(&whole[..end]), Orientation::UPRIGHT, "{end}");
            }
            let mut far = whole;
            far[4..8].fill(0xff);
            assert_eq!(Orientation::of_exif(&far), Orientation::UPRIGHT);
        }
    }

    #[test]
    fn every_orientation_is_turned_upright() {
        // The picture, two rows of three, and how a camera that was held otherwise has stored it.
        let stored: [(u32, usize, &[u8]); 8] = [
            (1, 3, b"abcdef"),
            (2, 3, b"cbafed"),
            (3, 3, b"fedcba"),
            (4, 3, b"defabc"),
            (5, 2, b"adbecf"),
            (6, 2, b"cfbead"),
            (7, 2, b"fcebda"),
            (8, 2, b"daebfc"),
        ];
        for (value, width, bytes) in stored {
            let from = Pixels { width, height: 6 / width, channels: 1, bytes: bytes.to_vec() };
            let picture = Orientation(value).upright(from);
            assert_eq!((picture.width, picture.height), (3, 2), "{value}");
            assert_eq!(picture.bytes, b"abcdef", "{value}");
        }
    }
}
