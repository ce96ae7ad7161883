//! Secrets that the service manager hands over (`LoadCredential=`): files in a directory that this process alone sees. One
//! of a secret's name goes before the file that would hold it else.

use std::path::{Path, PathBuf};

/// Where systemd says that credentials are.
const DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// The file of a secret whose own place is `path`.
pub fn file_of(path: &Path) -> PathBuf {
    file_in(std::env::var_os(DIRECTORY).map(PathBuf::from).as_deref(), path)
}

fn file_in(credentials: Option<&Path>, path: &Path) -> PathBuf {
    let handed_over = credentials.zip(path.file_name()).map(|(dir, name)| dir.join(name));
    handed_over.filter(|file| file.is_file()).unwrap_or_else(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_goes_before_the_file_of_its_name_and_is_not_missed() {
        let dir = tempfile::tempdir().unwrap();
        let own = Path::new("/var/lib/zerkalo-collector/ca/ca.key");
        assert_eq!(file_in(None, own), own);
        assert_eq!(file_in(Some(dir.path()), own), own);
        std::fs::write(dir.path().join("ca.key"), "a key").unwrap();
        assert_eq!(file_in(Some(dir.path()), own), dir.path().join("ca.key"));
        let other = own.with_file_name("server.key");
        assert_eq!(file_in(Some(dir.path()), &other), other);
        // No path leads out of the directory, and nothing without a name is looked for.
        assert_eq!(file_in(Some(dir.path()), Path::new("..")), Path::new(".."));
    }
}
