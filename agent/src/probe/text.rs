//! Text from peers that may be hostile, cut to a length.

/// Cuts `text` to at most `len_max` bytes, at a character's border.
pub fn cut(text: &mut String, len_max: usize) {
    if text.len() > len_max {
        let border = (0..=len_max).rev().find(|index| text.is_char_boundary(*index));
        text.truncate(border.unwrap_or(0));
    }
}
