//! Names that break parsers, terminals, temp-name schemes and normalising copiers: as file, directory and symlink.

use super::{Tree, below};
use anyhow::Result;

pub(super) fn build(tree: &mut Tree) -> Result<()> {
    for dir in [b"names".as_slice(), b"names/files", b"names/dirs", b"names/links", b"names/bytes"] {
        tree.dir(dir)?;
    }
    for (i, name) in odd_names().iter().enumerate() {
        tree.small(&below(b"names/files", name))?;
        let dir = below(b"names/dirs", name);
        tree.dir(&dir)?;
        // The odd name as a parent and as a leaf below itself; every third directory stays empty.
        if i % 3 != 0 {
            tree.small(&below(&dir, name))?;
        }
        tree.put.symlink(&below(b"names/links", name), name)?;
    }
    for byte in (1..=u8::MAX).filter(|byte| !b"/.".contains(byte)) {
        tree.small(&below(b"names/bytes", &[byte]))?;
        tree.small(&below(b"names/bytes", &[b'x', byte]))?;
    }
    Ok(())
}

/// One of each odd kind.
pub fn odd_names() -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = [
        b"new\nline".as_slice(),
        b"\n",
        b"carriage\rreturn",
        b"crlf\r\n",
        b"tab\tname",
        b"\x1b[2J\x1b[31mred",
        b"\x9b31mcsi",
        b"bell\x07",
        b"del\x7f",
        b"bad\xff\xfeutf8",
        b"\xc3",
        b"\xed\xa0\x80surrogate",
        b"\xf4\x90\x80\x80beyond",
        b"-rf",
        b"--delete",
        b"-",
        b".hidden",
        b"...",
        b"..x",
        b". ",
        b"~",
        b"~root",
        b"trailing ",
        b" leading",
        b" ",
        b"trailing.",
        b"back\\slash",
        b"\\x41",
        b"%41%00",
        b"quo\"te",
        b"quo'te",
        b"$HOME",
        b"`id`",
        b"$(id)",
        b"a;b|c&d",
        b"*",
        b"?[a]",
        b"#hash#",
        b"colon:colon",
        b"comma,equals=",
        b"<xml>&amp;",
        b"HEAD",
        b"head",
        b"stage.1",
        b"trash.1",
        b"commit",
        b"manifest",
        b"heartbeat",
        b"lane",
        b"epoch",
        b".tidegate",
        b".tidegate-x",
        b".rsync-tmp.A1b2C3",
        b".nfs000000000001",
        b".glusterfs",
        b".trashcan",
        b"lost+found",
        b"CON",
        b"nul.txt",
        b"Case",
        b"case",
        b"CASE",
        b"file.tmp",
        b"file~",
        b"core",
        b"con\xc2\xa0nbsp",
        b"\xef\xbb\xbfbom",
        b"rtl\xe2\x80\xaegnp.exe",
        b"zero\xe2\x80\x8bwidth",
        b"sep\xe2\x80\xa8line",
        b"caf\xc3\xa9",
        b"cafe\xcc\x81",
        b"\xe2\x84\xab",
        b"\xc3\x85",
        b"A\xcc\x8a",
        b"stra\xc3\x9fe",
        b"strasse",
        b"\xf0\x9f\x8c\x8a",
    ]
    .into_iter()
    .map(<[u8]>::to_vec)
    .collect();
    // No room for a suffix in any of these.
    names.push(vec![b'n'; 255]);
    names.push([vec![b'n'; 254], vec![b'm']].concat());
    names.push(vec![0xff; 255]);
    names.push(vec![b'\n'; 255]);
    names.push("é".repeat(127).into_bytes());
    names.push(vec![b'x'; 250]);
    names
}
