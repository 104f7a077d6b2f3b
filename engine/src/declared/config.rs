//! Reads a configuration with its `includedir` into a list of exports: all or nothing.
//!
//! No disk is opened here; see `plan`.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::path::Path;

use super::ini::{self, Problem, Section};
use super::keys::{self, Declared, Findings};

/// The longest configuration file that is read.
const MAX_FILE: u64 = 1 << 20;
/// The most files of one `includedir`.
const MAX_FILES: usize = 10_000;
/// Prefixes of names that the daemon gives itself.
const RESERVED: [&str; 2] = ["backup-", "restore-"];
/// The longest export name that the protocol allows.
const MAX_NAME: usize = 4096;

/// What a configuration declares.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Configuration {
    /// The exports, in the order of the files.
    pub exports: Vec<Declared>,
    /// Keys that were accepted but have no effect here.
    pub notes: Vec<Problem>,
}

/// Parses a configuration file and what it includes. All problems of all files are told.
///
/// Reads the file system: blocking.
pub fn read(file: &Path) -> Result<Configuration, Vec<Problem>> {
    let mut found = Findings::default();
    let name = file.display().to_string();
    let mut exports = Vec::new();
    let sections = sections(file, &name, &mut found);
    let generic = sections
        .iter()
        .find(|s| s.name == "generic")
        .map(|s| keys::generic(&name, s, &mut found))
        .unwrap_or_default();
    for section in sections.iter().filter(|s| s.name != "generic") {
        exports.extend(keys::export(&name, section, &generic, &mut found));
    }
    if let Some((dir, line)) = &generic.includedir {
        match included(Path::new(dir)) {
            Ok(files) => {
                for file in files {
                    let path = Path::new(dir).join(&file);
                    let name = path.display().to_string();
                    for section in self::sections(&path, &name, &mut found) {
                        if section.name == "generic" {
                            found.problem(
                                &name,
                                section.line,
                                "[generic] stands in the main file only",
                            );
                            continue;
                        }
                        exports.extend(keys::export(&name, &section, &generic, &mut found));
                    }
                }
            }
            Err(e) => found.problem(&name, *line, format!("`includedir` {dir}: {e}")),
        }
    }
    check_names(&exports, &mut found);
    if found.problems.is_empty() {
        Ok(Configuration {
            exports,
            notes: found.notes,
        })
    } else {
        Err(found.problems)
    }
}

fn sections(path: &Path, name: &str, found: &mut Findings) -> Vec<Section> {
    let text = match text(path) {
        Ok(text) => text,
        Err(why) => {
            found.problem(name, 0, why);
            return Vec::new();
        }
    };
    match ini::parse(name, &text) {
        Ok(sections) => sections,
        Err(problems) => {
            found.problems.extend(problems);
            Vec::new()
        }
    }
}

fn text(path: &Path) -> Result<String, String> {
    let mut file = fs::File::open(path).map_err(|e| e.to_string())?;
    if !file.metadata().map_err(|e| e.to_string())?.is_file() {
        return Err("not a regular file".into());
    }
    let mut text = String::new();
    let read = (&mut file)
        .take(MAX_FILE + 1)
        .read_to_string(&mut text)
        .map_err(|e| e.to_string())?;
    if read as u64 > MAX_FILE {
        return Err(format!("longer than {MAX_FILE} bytes"));
    }
    Ok(text)
}

/// The `*.conf` names of a directory, sorted; hidden ones are editors' leavings.
fn included(dir: &Path) -> Result<Vec<String>, String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(|e| e.to_string())? {
        let entry = entry.map_err(|e| e.to_string())?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else {
            continue;
        };
        if name.ends_with(".conf") && !name.starts_with('.') {
            names.push(name.to_owned());
        }
        if names.len() > MAX_FILES {
            return Err(format!("more than {MAX_FILES} files"));
        }
    }
    names.sort();
    Ok(names)
}

fn check_names(exports: &[Declared], found: &mut Findings) {
    let mut seen: HashMap<&str, &Declared> = HashMap::new();
    for d in exports {
        if d.name.len() > MAX_NAME {
            found.problem(
                &d.file,
                d.line,
                format!("an export's name has at most {MAX_NAME} bytes"),
            );
        }
        if let Some(prefix) = RESERVED.iter().find(|p| d.name.starts_with(**p)) {
            found.problem(
                &d.file,
                d.line,
                format!(
                    "[{}]: names that begin with `{prefix}` are the daemon's own",
                    d.name
                ),
            );
        }
        if let Some(first) = seen.insert(&d.name, d) {
            found.problem(
                &d.file,
                d.line,
                format!(
                    "[{}] is declared already at {}:{}",
                    d.name, first.file, first.line
                ),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, name: &str, text: &str) -> std::path::PathBuf {
        let path = dir.join(name);
        fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn a_debian_style_configuration_loads_unchanged() {
        let dir = tempfile::tempdir().unwrap();
        let d = dir.path().join("conf.d");
        fs::create_dir(&d).unwrap();
        let main = write(
            dir.path(),
            "config",
            &format!(
                "[generic]\n# who\n\tuser = nbd\n\tgroup = nbd\n\tport = 10809\n\
                 \tallowlist = true\n\tincludedir = {}\n[disk0]\n\texportname = /dev/sdb\n\
                 \tcopyonwrite = false\n\tmaxconnections = 3\n",
                d.display()
            ),
        );
        write(
            &d,
            "b.conf",
            "[swap]\nexportname = /dev/vg/swap\nflush = true\nfua=1\nreadonly=false\n",
        );
        write(
            &d,
            "a.conf",
            "[migration-vm1]\nexportname=/dev/vdb\nrotational=true\ntrim=true\n",
        );
        write(&d, "ignored.txt", "garbage");
        let c = read(&main).unwrap();
        let names: Vec<&str> = c.exports.iter().map(|e| e.name.as_str()).collect();
        assert_eq!(names, ["disk0", "migration-vm1", "swap"]);
        assert_eq!(c.exports[0].maxconnections, Some(3));
        assert!(c.exports[1].trim && c.exports[1].rotational && !c.exports[0].trim);
        assert_eq!(c.notes.len(), 3);
        assert!(
            c.notes[0]
                .to_string()
                .contains("config:3: `user` has no effect")
        );
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name_and_place() {
        let dir = tempfile::tempdir().unwrap();
        let main = write(
            dir.path(),
            "c",
            "[generic]\noldstyle = true\nbogus=1\n[a]\nexportname=/x\ncopyonwrite=true\n\
             authfile=/etc/allow\n[b]\nexportname=rel/path\n[c]\nreadonly=yes\nexportname=/a/%s\n\
             [backup-x]\nexportname=/y\n[d]\nfilesize=-1\n",
        );
        let problems = read(&main).unwrap_err();
        let lines: Vec<u32> = problems.iter().map(|p| p.line).collect();
        assert_eq!(lines, [2, 3, 6, 7, 9, 11, 12, 16, 15, 13]);
        assert!(problems[2].text.contains("`copyonwrite` is not supported"));
        assert!(problems[9].text.contains("backup-"));
    }

    #[test]
    fn a_missing_directory_and_a_double_name_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let main = write(
            dir.path(),
            "c",
            "[generic]\nincludedir=/nonexistent/conf.d\n",
        );
        assert!(read(&main).unwrap_err()[0].text.contains("includedir"));
        let d = dir.path().join("conf.d");
        fs::create_dir(&d).unwrap();
        write(&d, "a.conf", "[generic]\n[one]\nexportname=/x\n");
        let text = format!(
            "[generic]\nincludedir={}\n[one]\nexportname=/y\n",
            d.display()
        );
        let main = write(dir.path(), "c", &text);
        let problems = read(&main).unwrap_err();
        assert_eq!(problems.len(), 2);
        assert!(problems[1].text.contains("[one] is declared already at"));
    }
}
