//! `zerkalo-seeds DIR`: writes the corpora's beginnings, made by the programs' own writers, as DIR/TARGET/seed-NAME.

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(dir) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: zerkalo-seeds DIR");
        return ExitCode::from(2);
    };
    for (target, name, bytes) in zerkalo_decoders::seeds::all() {
        let dir = dir.join(target);
        let path = dir.join(format!("seed-{name}"));
        if let Err(error) = std::fs::create_dir_all(&dir).and_then(|()| std::fs::write(&path, bytes)) {
            eprintln!("{}: {error}", path.display());
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
