//! Sets of patterns for programs we know.
//!
//! A preset lists only what the program makes anew by itself, or what is wrong on another host: whoever takes one
//! must lose nothing by it. What is merely large belongs into `exclude`, by the word of the operator.

/// A set of patterns that is known by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// Nothing.
    None,
    /// A Jenkins home.
    Jenkins,
}

/// What a Jenkins home can do without, and why. Left in on purpose: `tools/`, which may hold what somebody put
/// there by hand; `logs/`, `fingerprints/` and `config-history/`, which are history; `plugins/*/`, which is made
/// anew only where the archive is there too; and any pattern by which a job or an archived artifact could be named.
pub const JENKINS: &[(&str, &str)] = &[
    ("/war/", "the web application, unpacked anew at each start"),
    ("/caches/", "clones that jobs fetch again"),
    ("/.cache/", "caches of tools, by the XDG rule"),
    ("/updates/", "lists of the update centre, loaded daily"),
    ("/tmp/", "temporary files of the running process"),
    ("/workspace/", "checkouts of builds on the controller"),
    // Where it lies in older homes. Anchored for each depth of folders: a job may be called workspace.
    ("/jobs/*/workspace/", "the same, where older homes have it"),
    ("/jobs/*/workspace@*/", "its companions: @2, @tmp, @script"),
    ("/jobs/*/jobs/*/workspace/", "the same in a folder"),
    ("/jobs/*/jobs/*/workspace@*/", "the same in a folder"),
    ("/jobs/*/jobs/*/jobs/*/workspace/", "the same in a folder of a folder"),
    ("/jobs/*/jobs/*/jobs/*/workspace@*/", "the same in a folder of a folder"),
    ("*-atomic[0-9]*tmp", "a file being written; it comes under its own name"),
    ("atomic[0-9]*tmp", "the same, of older cores"),
    ("/.owner", "says which process runs here: on another host a false alarm of two controllers on one home"),
    ("/org.jenkinsci.plugins.github_branch_source.GitHubSCMProbe.cache/", "answers of GitHub"),
];

impl Preset {
    /// Its patterns with reasons.
    pub fn patterns(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::None => &[],
            Self::Jenkins => JENKINS,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::excludes::Excludes;
    use super::*;
    use proto::RelPath;

    fn matches(text: &str) -> Option<String> {
        let patterns = JENKINS.iter().map(|(text, _)| text.parse().unwrap()).collect();
        let excludes = Excludes::new(patterns).unwrap();
        let (path, is_dir) = text.strip_suffix('/').map_or((text, false), |path| (path, true));
        excludes.matches(&RelPath::new(path.as_bytes()).unwrap(), is_dir).map(str::to_owned)
    }

    /// A mirror without one of these would come up as another Jenkins.
    #[test]
    fn what_jenkins_needs_stays() {
        for path in [
            "config.xml",
            "credentials.xml",
            "identity.key.enc",
            "secret.key",
            "secret.key.not-so-secret",
            "secrets/master.key",
            "secrets/hudson.util.Secret",
            "users/users.xml",
            "nodes/agent1/config.xml",
            "nextBuildNumber",
            "jobs/a/config.xml",
            "jobs/a/nextBuildNumber",
            "jobs/a/builds/1/build.xml",
            "jobs/a/builds/1/log",
            "jobs/a/builds/1/workflow/2.xml",
            "jobs/a/builds/1/archive/out.tmp",
            "jobs/a/builds/1/archive/workspace/x",
            "jobs/a/builds/1/archive/lib-atomic-tmp",
            "jobs/a/builds/permalinks",
            "plugins/git.jpi",
            "plugins/git/META-INF/MANIFEST.MF",
            // Jobs whose names look like something else.
            "jobs/workspace/config.xml",
            "jobs/war/config.xml",
            "jobs/folder/jobs/workspace/config.xml",
            "jobs/jobs/jobs/workspace/config.xml",
            "jobs/folder/jobs/folder/jobs/workspace/builds/1/log",
            "jobs/workspace-cleaner/config.xml",
            "jobs/caches/config.xml",
            "jobs/tmp/config.xml",
            "jobs/atomic/config.xml",
            "tools/jdk/bin/java",
            "fingerprints/00/x.xml",
            "queue.xml",
        ] {
            assert_eq!(matches(path), None, "{path}");
        }
    }

    #[test]
    fn what_is_made_anew_is_left_out_each_by_its_pattern() {
        let mut used = std::collections::BTreeSet::new();
        for path in [
            "war/WEB-INF/web.xml",
            "caches/git-1/HEAD",
            ".cache/x",
            "updates/default.json",
            "tmp/x",
            "workspace/a/src",
            "jobs/a/workspace/src",
            "jobs/a/workspace@tmp/x",
            "jobs/f/jobs/a/workspace/src",
            "jobs/f/jobs/a/workspace@2/src",
            "jobs/f/jobs/g/jobs/a/workspace/src",
            "jobs/f/jobs/g/jobs/a/workspace@script/x",
            "jobs/a/config.xml-atomic6291861247711tmp",
            "jobs/a/atomic12345tmp",
            ".owner",
            "org.jenkinsci.plugins.github_branch_source.GitHubSCMProbe.cache/x",
        ] {
            used.insert(matches(path).unwrap_or_else(|| panic!("{path} stays")));
        }
        let all: std::collections::BTreeSet<_> = JENKINS.iter().map(|(text, _)| (*text).to_owned()).collect();
        assert_eq!(used, all, "a pattern that no example needs");
    }
}
