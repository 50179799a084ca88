//! What the tests need from `gluster --xml`. Pure; not a general XML reader.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

/// Whether gluster did what it was asked to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Done,
    Refused { errno: i64, why: String },
}

/// Judges a reply by `opRet`, which comes before or after the body; the exit status of the tool is no sign.
pub(super) fn reply(xml: &str) -> Result<Reply> {
    let Some(code) = text(xml, "opRet") else {
        bail!("no opRet in {:?}", xml.chars().take(200).collect::<String>());
    };
    if code == "0" {
        return Ok(Reply::Done);
    }
    let errno = text(xml, "opErrno").and_then(|errno| errno.parse().ok()).unwrap_or(0);
    Ok(Reply::Refused { errno, why: text(xml, "opErrstr").unwrap_or_default() })
}

/// A node of the pool as one host sees it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub name: String,
    pub connected: bool,
    /// 3 is "Peer in Cluster"; anything else means that a request naming this peer may be refused.
    pub state: u32,
}

pub(super) fn peers(xml: &str) -> Result<Vec<Peer>> {
    blocks(xml, "peer").into_iter().map(peer).collect()
}

fn peer(block: &str) -> Result<Peer> {
    Ok(Peer {
        name: text(block, "hostname").context("peer without hostname")?,
        connected: text(block, "connected").as_deref() == Some("1"),
        state: text(block, "state").and_then(|state| state.parse().ok()).context("peer without state")?,
    })
}

/// A process of `volume status`: a brick or a self-heal daemon.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub host: String,
    pub path: String,
    pub online: bool,
}

pub(super) fn status_nodes(xml: &str) -> Result<Vec<Node>> {
    blocks(xml, "node").into_iter().map(node).collect()
}

fn node(block: &str) -> Result<Node> {
    Ok(Node {
        host: text(block, "hostname").context("node without hostname")?,
        path: text(block, "path").context("node without path")?,
        online: text(block, "status").as_deref() == Some("1"),
    })
}

/// Entries that wait for a heal, over all bricks of `heal V info`; `None` when any brick could not say.
pub(super) fn heal_pending(xml: &str) -> Result<Option<u64>> {
    let bricks = blocks(xml, "brick");
    if bricks.is_empty() {
        bail!("heal info lists no brick");
    }
    let mut sum = 0;
    for brick in bricks {
        let count = text(brick, "numberOfEntries").context("brick without numberOfEntries")?;
        if count == "-" {
            return Ok(None);
        }
        sum += count.parse::<u64>().with_context(|| format!("numberOfEntries {count:?}"))?;
    }
    Ok(Some(sum))
}

/// File operations per brick and name of `volume profile V info cumulative`.
pub(super) fn profile(xml: &str) -> Result<BTreeMap<String, BTreeMap<String, u64>>> {
    blocks(xml, "brick").into_iter().map(profile_brick).collect()
}

fn profile_brick(block: &str) -> Result<(String, BTreeMap<String, u64>)> {
    let name = text(block, "brickName").context("brick without brickName")?;
    let stats =
        blocks(block, "cumulativeStats").into_iter().next().context("brick without cumulativeStats")?;
    let mut counts = BTreeMap::new();
    for fop in blocks(stats, "fop") {
        let fop_name = text(fop, "name").context("fop without name")?;
        let hits = text(fop, "hits").and_then(|hits| hits.parse().ok()).context("fop without hits")?;
        counts.insert(fop_name, hits);
    }
    Ok((name, counts))
}

/// Text of the first element of that name, with the five entities resolved.
fn text(xml: &str, tag: &str) -> Option<String> {
    element(xml, tag).map(|(inner, _)| unescape(inner.trim()))
}

/// Inner text of all elements of that name; elements that contain one of their own name are not supported.
fn blocks<'a>(mut xml: &'a str, tag: &str) -> Vec<&'a str> {
    let mut found = Vec::new();
    while let Some((inner, rest)) = element(xml, tag) {
        found.push(inner);
        xml = rest;
    }
    found
}

/// The first element `tag`: what is inside it and what follows it.
fn element<'a>(xml: &'a str, tag: &str) -> Option<(&'a str, &'a str)> {
    let mut from = 0;
    loop {
        let start = from + xml[from..].find('<')?;
        let after_name = xml[start + 1..].strip_prefix(tag);
        let Some(rest) = after_name.filter(|rest| rest.starts_with(['>', ' ', '/', '\n'])) else {
            from = start + 1;
            continue;
        };
        let close = rest.find('>')?;
        let body = &rest[close + 1..];
        if rest[..close].ends_with('/') {
            return Some(("", body));
        }
        let end_tag = format!("</{tag}>");
        let end = body.find(&end_tag)?;
        return Some((&body[..end], &body[end + end_tag.len()..]));
    }
}

fn unescape(text: &str) -> String {
    text.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&apos;", "'")
        .replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAL: &str = r#"<?xml version="1.0"?><cliOutput><healInfo><bricks>
        <brick hostUuid="d5"><name>host0:/b/v</name><status>Connected</status><numberOfEntries>2</numberOfEntries></brick>
        <brick hostUuid="24"><name>host1:/b/v</name><status>Connected</status><numberOfEntries>1</numberOfEntries></brick>
        </bricks></healInfo><opRet>0</opRet><opErrno>0</opErrno><opErrstr/></cliOutput>"#;

    #[test]
    fn op_ret_after_the_body() {
        assert_eq!(reply(HEAL).unwrap(), Reply::Done);
        assert_eq!(heal_pending(HEAL).unwrap(), Some(3));
    }

    #[test]
    fn a_dash_is_unknown_not_zero() {
        let unknown = HEAL.replace("<numberOfEntries>1<", "<numberOfEntries>-<");
        assert_eq!(heal_pending(&unknown).unwrap(), None);
    }

    #[test]
    fn heal_info_without_bricks_is_an_error_not_zero() {
        assert!(heal_pending("<cliOutput><opRet>0</opRet></cliOutput>").is_err());
        assert!(heal_pending(&HEAL.replace("numberOfEntries>2<", "numberOfEntries>many<")).is_err());
    }

    #[test]
    fn refusal() {
        let xml = "<cliOutput><opRet>-1</opRet><opErrno>30802</opErrno><opErrstr>a &lt;b&gt; &amp;amp; c</opErrstr></cliOutput>";
        assert_eq!(reply(xml).unwrap(), Reply::Refused { errno: 30802, why: "a <b> &amp; c".into() });
        assert!(reply("Error : Request timed out").is_err());
    }

    #[test]
    fn peer_names_come_before_their_aliases() {
        let xml = "<peerStatus><peer><uuid>u</uuid><hostname>host1</hostname><hostnames><hostname>10.0.0.1</hostname></hostnames>\
                   <connected>1</connected><state>3</state><stateStr>Peer in Cluster</stateStr></peer></peerStatus>";
        assert_eq!(peers(xml).unwrap(), [Peer { name: "host1".into(), connected: true, state: 3 }]);
    }

    #[test]
    fn nodes() {
        let xml = "<nodeCount>2</nodeCount><node><hostname>host0</hostname><path>/b/v</path><status>1</status></node>\
                   <node><hostname>Self-heal Daemon</hostname><path>localhost</path><status>0</status></node>";
        let nodes = status_nodes(xml).unwrap();
        assert_eq!(nodes.len(), 2);
        assert!(nodes[0].online && !nodes[1].online);
    }

    #[test]
    fn profile_takes_the_cumulative_part() {
        let xml = "<brick><brickName>host0:/b/v</brickName><cumulativeStats><blockStats/><fopStats>\
                   <fop><name>WRITE</name><hits>7</hits></fop><fop><name>LOOKUP</name><hits>3</hits></fop></fopStats></cumulativeStats>\
                   <intervalStats><fopStats><fop><name>WRITE</name><hits>99</hits></fop></fopStats></intervalStats></brick>";
        let profile = profile(xml).unwrap();
        assert_eq!(profile["host0:/b/v"]["WRITE"], 7);
        assert_eq!(profile["host0:/b/v"].len(), 2);
    }
}
