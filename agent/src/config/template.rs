//! Texts with `{team}` and `{env}` in them.

use proto::LaneName;

/// Fills in the name of a lane.
///
/// # Errors
/// What is wrong with the braces, to be put behind the text.
pub fn fill(text: &str, name: &LaneName) -> Result<String, String> {
    const WAY_OUT: &str = "placeholders are {team} and {env}, and there are no other braces";
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        filled.push_str(&rest[..at]);
        let braced = &rest[at..];
        let Some((word, behind)) = braced.strip_prefix('{').and_then(|inside| inside.split_once('}')) else {
            return Err(format!("has a brace without its other half: {WAY_OUT}"));
        };
        match word {
            "team" => filled.push_str(name.team().as_str()),
            "env" => filled.push_str(name.env().as_str()),
            _ if word.starts_with('{') => {
                return Err(format!("has double braces, as Ansible writes them: {WAY_OUT}"));
            }
            _ => return Err(format!("has an unknown placeholder {{{word}}}: {WAY_OUT}")),
        }
        rest = behind;
    }
    filled.push_str(rest);
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_placeholders_are_filled_and_nothing_else() {
        let name = "qa/green".parse().unwrap();
        let fill = |text: &str| fill(text, &name);
        assert_eq!(fill("/var/jenkins/{team}/sync/{env}").unwrap(), "/var/jenkins/qa/sync/green");
        assert_eq!(fill("{env}{team}{env}").unwrap(), "greenqagreen");
        assert_eq!(fill("").unwrap(), "");
        for (text, says) in [
            ("{{ team }}", "Ansible"),
            ("{tem}", "{tem}"),
            ("{}", "{}"),
            ("{team", "other half"),
            ("team}", "other half"),
        ] {
            assert!(fill(text).unwrap_err().contains(says), "{text}");
        }
    }
}
