//! The full version of a server, minor release included.
//!
//! Minor releases share every format, but redo of a record may change from one to the next. So which of them wrote the
//! log is recorded in the log itself (`effects::server_version`), and whatever depends on it takes this type.

use quire_types::CodecError;
use std::fmt;
use std::str::FromStr;

/// A version as PostgreSQL counts it: `server_version_num`, 150018 for 15.18.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ServerVersion(u32);

/// A text in which there is no version.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no version of PostgreSQL is in {0:?}")]
pub struct NoVersion(String);

impl ServerVersion {
    /// What holds for records in the log of a branch from before versions were recorded: no server newer than this had
    /// been tried then.
    pub const UNRECORDED: ServerVersion = ServerVersion::new(15, 18);

    /// Bytes of [`ServerVersion::encode`].
    pub const BYTES: usize = 4;

    /// A release; 15.18 is `new(15, 18)`.
    pub const fn new(major: u32, minor: u32) -> ServerVersion {
        ServerVersion(major * 10_000 + minor)
    }

    /// From `server_version_num`; none if it is no number that a server since version 10 has.
    pub const fn from_number(number: u32) -> Option<ServerVersion> {
        if number >= 100_000 && number < 10_000_000 { Some(ServerVersion(number)) } else { None }
    }

    /// From what `postgres --version` prints, such as `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
    pub fn from_program(output: &str) -> Result<ServerVersion, NoVersion> {
        let word = output.split_whitespace().nth(2).ok_or_else(|| NoVersion(output.trim().to_owned()))?;
        word.parse().map_err(|_| NoVersion(output.trim().to_owned()))
    }

    /// `server_version_num`.
    pub const fn number(self) -> u32 {
        self.0
    }

    /// The major version, as in the file `PG_VERSION`.
    pub const fn major(self) -> u32 {
        self.0 / 10_000
    }

    /// The minor version, 0 also for what came before the first release.
    pub const fn minor(self) -> u32 {
        self.0 % 10_000
    }

    /// [`ServerVersion::number`] as a little-endian `u32`.
    pub fn encode(self) -> [u8; ServerVersion::BYTES] {
        self.0.to_le_bytes()
    }

    /// Reads back what [`ServerVersion::encode`] wrote.
    pub fn decode(raw: &[u8]) -> Result<ServerVersion, CodecError> {
        let mut input = quire_types::Reader::new(raw);
        let number = input.u32("server version")?;
        input.finish()?;
        ServerVersion::from_number(number).ok_or(CodecError::Invalid { field: "server version", value: number.into() })
    }
}

impl fmt::Display for ServerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major(), self.minor())
    }
}

impl FromStr for ServerVersion {
    type Err = NoVersion;

    /// `15.18`, or `16beta1`, `16rc1`, `16devel`, which are 16.0.
    fn from_str(text: &str) -> Result<ServerVersion, NoVersion> {
        let failed = || NoVersion(text.to_owned());
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (major, rest) = text.split_at(end);
        let major = major.parse().ok().filter(|major| (10..1000).contains(major)).ok_or_else(failed)?;
        let minor = match rest.strip_prefix('.') {
            Some(minor) => minor.parse().ok().filter(|minor| *minor < 10_000).ok_or_else(failed)?,
            None => 0,
        };
        Ok(ServerVersion::new(major, minor))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_version_is_read() {
        let printed = "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n";
        assert_eq!(ServerVersion::from_program(printed), Ok(ServerVersion::new(15, 18)));
        assert_eq!(ServerVersion::from_program("postgres (PostgreSQL) 18beta1"), Ok(ServerVersion::new(18, 0)));
        assert_eq!("15.3".parse(), Ok(ServerVersion::new(15, 3)));
        for bad in ["", "postgres (PostgreSQL)", "something else entirely"] {
            assert!(ServerVersion::from_program(bad).is_err(), "{bad}");
        }
        for bad in ["", "15.", "15.x", "9.6", "15.10000", "99999999999.1", "15.18.1"] {
            assert!(bad.parse::<ServerVersion>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_version_is_postgresqls_number_and_is_ordered_by_it() {
        let version = ServerVersion::new(15, 18);
        assert_eq!((version.number(), version.major(), version.minor()), (150_018, 15, 18));
        assert_eq!(version.to_string(), "15.18");
        assert!(ServerVersion::new(15, 3) < version && version < ServerVersion::new(15, 20));
        assert_eq!(ServerVersion::from_number(150_018), Some(version));
        assert_eq!(ServerVersion::from_number(90_624), None);
        assert_eq!(ServerVersion::decode(&version.encode()), Ok(version));
        assert!(ServerVersion::decode(&[0; 4]).is_err());
    }
}
