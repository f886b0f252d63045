//! Numbers as lower-case hexadecimal digits, without the machinery of `fmt`, and read back.

/// The number that up to 16 digits say, small ones.
pub fn read(digits: &[u8]) -> Option<u64> {
    /// The value of a digit, or a bit that no digit has.
    const VALUES: [u8; 256] = {
        let mut values = [0x80; 256];
        let mut value = 0;
        while value < 16 {
            values[b"0123456789abcdef"[value] as usize] = value as u8;
            value += 1;
        }
        values
    };
    let (mut number, mut seen) = (0, 0);
    for digit in digits {
        let value = VALUES[usize::from(*digit)];
        seen |= value;
        number = number << 4 | u64::from(value & 0xf);
    }
    (matches!(digits.len(), 1..=16) && seen & 0x80 == 0).then_some(number)
}

/// Appends a number as `{:x}` has it.
pub fn write(into: &mut Vec<u8>, number: u64) {
    let digits = 1.max(16 - number.leading_zeros() as usize / 4);
    into.extend_from_slice(&padded(number)[16 - digits..]);
}

/// As `{:016x}` has it.
pub fn padded(number: u64) -> [u8; 16] {
    let mut digits = [0; 16];
    for (digit, shift) in digits.iter_mut().rev().zip((0..64).step_by(4)) {
        *digit = b"0123456789abcdef"[(number >> shift) as usize & 15];
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn as_fmt_has_them(number in prop_oneof![any::<u64>(), 0u64..300]) {
            let mut written = Vec::new();
            write(&mut written, number);
            prop_assert_eq!(&written, &format!("{number:x}").into_bytes());
            prop_assert_eq!(read(&written), Some(number));
            prop_assert_eq!(padded(number).to_vec(), format!("{number:016x}").into_bytes());
        }
    }
}
