//! Which user and groups a container runs as: numbers as they are, names by the image's own files.

/// A resolved user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted<'a> {
    /// `USER` of the image: `user[:group]`.
    pub(crate) image: &'a str,
    pub(crate) run_as_user: Option<i64>,
    pub(crate) run_as_group: Option<i64>,
    pub(crate) supplemental_groups: &'a [i64],
}

struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn passwd_entries(text: &str) -> impl Iterator<Item = PasswdEntry<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _, uid, gid, _, home) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        Some(PasswdEntry { name, uid: uid.parse().ok()?, gid: gid.parse().ok()?, home })
    })
}

fn group_entries(text: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _, gid, members) = (fields.next()?, fields.next()?, fields.next()?, fields.next().unwrap_or_default());
        Some((name, gid.parse().ok()?, members))
    })
}

fn number(field: &str, value: i64) -> Result<u32, String> {
    u32::try_from(value).map_err(|_| format!("{field} {value} is not a user or group id"))
}

/// Resolves a user with the text of `/etc/passwd` and `/etc/group`.
pub(crate) fn resolve(wanted: &Wanted<'_>, passwd: &str, group: &str) -> Result<User, String> {
    let (image_user, image_group) = wanted.image.split_once(':').map_or((wanted.image, None), |(u, g)| (u, Some(g)));
    let (uid, entry) = match wanted.run_as_user {
        Some(uid) => {
            let uid = number("run_as_user", uid)?;
            (uid, passwd_entries(passwd).find(|e| e.uid == uid))
        }
        None if image_user.is_empty() => (0, passwd_entries(passwd).find(|e| e.uid == 0)),
        None => match passwd_entries(passwd).find(|e| e.name == image_user) {
            Some(entry) => (entry.uid, Some(entry)),
            None => {
                let uid: u32 =
                    image_user.parse().map_err(|_| format!("unable to find user {image_user}: no matching entries in passwd file"))?;
                (uid, passwd_entries(passwd).find(|e| e.uid == uid))
            }
        },
    };
    let gid = match (wanted.run_as_group, image_group) {
        (Some(gid), _) => number("run_as_group", gid)?,
        (None, Some(name)) if wanted.run_as_user.is_none() && !name.is_empty() => match group_entries(group).find(|(n, ..)| *n == name) {
            Some((_, gid, _)) => gid,
            None => name.parse().map_err(|_| format!("unable to find group {name}: no matching entries in group file"))?,
        },
        _ => entry.as_ref().map_or(0, |e| e.gid),
    };
    let mut groups: Vec<u32> = Vec::new();
    for value in wanted.supplemental_groups {
        groups.push(number("supplemental_groups", *value)?);
    }
    // A group given by name or number replaces the user's own, memberships stay, as in container engines.
    if let Some(entry) = &entry {
        groups.extend(group_entries(group).filter(|(_, _, members)| members.split(',').any(|m| m == entry.name)).map(|(_, gid, _)| gid));
    }
    groups.push(gid);
    groups.sort_unstable();
    groups.dedup();
    let home = entry.map_or_else(|| "/".to_string(), |e| e.home.to_string());
    Ok(User { uid, gid, groups, home })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:App:/home/app:/bin/sh\nbroken\n";
    const GROUP: &str = "root:x:0:\napp:x:1001:\nvideo:x:44:app,other\n";

    #[test]
    fn names_come_from_the_image() {
        let user = resolve(&Wanted { image: "app", ..Wanted::default() }, PASSWD, GROUP).unwrap();
        assert_eq!(user, User { uid: 1000, gid: 1001, groups: vec![44, 1001], home: "/home/app".into() });
        let user = resolve(&Wanted { image: "app:video", ..Wanted::default() }, PASSWD, GROUP).unwrap();
        assert_eq!((user.uid, user.gid), (1000, 44));
    }

    #[test]
    fn numbers_need_no_entry() {
        let user = resolve(&Wanted { image: "4242", ..Wanted::default() }, PASSWD, GROUP).unwrap();
        assert_eq!((user.uid, user.gid), (4242, 0));
        assert!(resolve(&Wanted { image: "nobody-here", ..Wanted::default() }, PASSWD, GROUP).is_err());
    }

    #[test]
    fn the_pod_overrides_the_image() {
        let wanted = Wanted { image: "app:video", run_as_user: Some(0), run_as_group: Some(7), supplemental_groups: &[9] };
        let user = resolve(&wanted, PASSWD, GROUP).unwrap();
        assert_eq!((user.uid, user.gid, user.groups), (0, 7, vec![7, 9]));
        assert!(resolve(&Wanted { run_as_user: Some(-1), ..Wanted::default() }, PASSWD, GROUP).is_err());
    }
}
