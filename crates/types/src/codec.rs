//! Reading and writing little-endian fields without ever trusting a length.

use bytes::Bytes;

/// Input that is too short, too long, or says something that cannot be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CodecError {
    /// The input ended inside a field.
    #[error("truncated: {field} needs {needed} bytes, {left} are left")]
    Truncated {
        /// What was being read.
        field: &'static str,
        /// Bytes the field needs.
        needed: usize,
        /// Bytes that are left.
        left: usize,
    },
    /// A field has a value that the format does not know.
    #[error("invalid {field}: {value}")]
    Invalid {
        /// What was being read.
        field: &'static str,
        /// What it said.
        value: u64,
    },
    /// Bytes remain after the last field.
    #[error("{0} bytes follow the last field")]
    Trailing(usize),
}

/// A cursor over untrusted input.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    left: &'a [u8],
}

macro_rules! read_integer {
    ($($name:ident: $type:ty),*) => {$(
        /// Reads a little-endian integer.
        #[inline]
        pub fn $name(&mut self, field: &'static str) -> Result<$type, CodecError> {
            self.array(field).map(<$type>::from_le_bytes)
        }
    )*};
}

impl<'a> Reader<'a> {
    /// Starts at the first byte of `input`.
    #[inline]
    pub fn new(input: &'a [u8]) -> Reader<'a> {
        Reader { left: input }
    }

    /// Bytes not yet read.
    #[inline]
    pub fn remaining(&self) -> usize {
        self.left.len()
    }

    /// Takes exactly `count` bytes.
    #[inline]
    pub fn bytes(&mut self, field: &'static str, count: usize) -> Result<&'a [u8], CodecError> {
        let too_short = CodecError::Truncated { field, needed: count, left: self.left.len() };
        let (head, tail) = self.left.split_at_checked(count).ok_or(too_short)?;
        self.left = tail;
        Ok(head)
    }

    /// Takes exactly `N` bytes as an array.
    #[inline]
    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], CodecError> {
        let left = self.left.len();
        let (head, tail) = self.left.split_first_chunk().ok_or(CodecError::Truncated { field, needed: N, left })?;
        self.left = tail;
        Ok(*head)
    }

    /// Takes a `u32` length and that many bytes.
    pub fn length_prefixed(&mut self, field: &'static str) -> Result<&'a [u8], CodecError> {
        let count = self.u32(field)?;
        self.bytes(field, count as usize)
    }

    /// Takes all that is left.
    #[inline]
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.left)
    }

    /// Refuses trailing bytes.
    #[inline]
    pub fn finish(self) -> Result<(), CodecError> {
        match self.left.len() {
            0 => Ok(()),
            trailing => Err(CodecError::Trailing(trailing)),
        }
    }

    read_integer!(u8: u8, u16: u16, u32: u32, u64: u64, i64: i64);
}

/// A growing buffer of little-endian fields.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    buffer: Vec<u8>,
}

macro_rules! write_integer {
    ($($name:ident: $type:ty),*) => {$(
        /// Writes a little-endian integer.
        pub fn $name(&mut self, value: $type) -> &mut Writer {
            self.buffer.extend_from_slice(&value.to_le_bytes());
            self
        }
    )*};
}

impl Writer {
    /// An empty buffer.
    pub fn new() -> Writer {
        Writer::default()
    }

    /// An empty buffer with room for `bytes`.
    pub fn with_capacity(bytes: usize) -> Writer {
        Writer { buffer: Vec::with_capacity(bytes) }
    }

    /// Appends bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Writer {
        self.buffer.extend_from_slice(bytes);
        self
    }

    /// Appends a `u32` length and the bytes.
    ///
    /// # Panics
    /// If `bytes` is 4 GiB or longer, which no value of Quire's is.
    pub fn length_prefixed(&mut self, bytes: &[u8]) -> &mut Writer {
        let count = u32::try_from(bytes.len()).expect("no value reaches 4 GiB");
        self.u32(count).bytes(bytes)
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// What was written so far.
    pub fn as_slice(&self) -> &[u8] {
        &self.buffer
    }

    /// What was written.
    pub fn into_vec(self) -> Vec<u8> {
        self.buffer
    }

    /// What was written, shareable.
    pub fn into_bytes(self) -> Bytes {
        Bytes::from(self.buffer)
    }

    write_integer!(u8: u8, u16: u16, u32: u32, u64: u64, i64: i64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_input_is_an_error_that_names_the_field() {
        let mut reader = Reader::new(&[1, 0, 0, 0, 9]);
        assert_eq!(reader.clone().u64("lsn"), Err(CodecError::Truncated { field: "lsn", needed: 8, left: 5 }));
        assert_eq!(reader.length_prefixed("name"), Ok(&[9u8][..]));
        assert_eq!(reader.finish(), Ok(()));
    }

    #[test]
    fn trailing_bytes_are_refused() {
        assert_eq!(Reader::new(&[1]).finish(), Err(CodecError::Trailing(1)));
    }
}
