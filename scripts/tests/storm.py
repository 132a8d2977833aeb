"""The programs of scripts/tests/storm that are more than one command: probe, git, sqlite.

Each works until WORK/stop is there, checks everything it reads, and ends with the first error of any call.
usage: storm.py probe WORK DIRECTORY NAME
       storm.py git WORK DIRECTORY_ON_FIRST DIRECTORY_ON_SECOND SEED
       storm.py sqlite WORK DIRECTORY NAME SEED
"""
import os, random, sqlite3, subprocess, sys, time

work = sys.argv[2]
PROBE_INTERVAL_S = 0.1
# Calls longer than this are noted with their time.
NOTED_MS = 300


def stopped():
    return os.path.exists(f"{work}/stop")


def probe(place, name):
    """What a program does to a small file, in a directory of its own and in one both mounts use; notes how long calls take."""
    longest, count = 0, 0
    places = [f"{place}/{name}", f"{place}/both"]
    for directory in places:
        os.makedirs(directory, exist_ok=True)
    with open(f"{work}/pauses-{name}", "w") as notes:
        def timed(what, call):
            nonlocal longest
            began = time.monotonic()
            result = call()
            took = (time.monotonic() - began) * 1000
            longest = max(longest, took)
            if took > NOTED_MS:
                print(f"{took:.0f} {what} on {name}, until {time.strftime('%H:%M:%S', time.gmtime())} UTC", file=notes, flush=True)
            return result

        print(f"0 nothing on {name}", file=notes, flush=True)
        while not stopped():
            count += 1
            directory = places[count % 2]
            path, text = f"{directory}/{name}-{count}", b"%d of %s\n" % (count, name.encode()) * (count % 700 + 1)
            file = timed("create", lambda: os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644))
            assert timed("write", lambda: os.write(file, text)) == len(text)
            timed("fsync", lambda: os.fsync(file))
            timed("close", lambda: os.close(file))
            file = timed("open", lambda: os.open(path, os.O_RDONLY))
            assert timed("read", lambda: os.pread(file, 1 << 20, 0)) == text, path
            timed("close", lambda: os.close(file))
            assert timed("stat", lambda: os.stat(path)).st_size == len(text), path
            assert os.path.basename(path) in timed("list", lambda: os.listdir(directory))
            timed("unlink", lambda: os.unlink(path))
            time.sleep(PROBE_INTERVAL_S)
    print(f"probe on {name}: {count} files, the longest call took {longest:.0f} ms")


def git_storm(one, two, seed):
    """Two clones on two mounts push to and pull from one repository on the mount; each packs and checks itself."""
    random.seed(int(seed))
    environment = dict(os.environ, GIT_AUTHOR_NAME="t", GIT_AUTHOR_EMAIL="t@t", GIT_COMMITTER_NAME="t", GIT_COMMITTER_EMAIL="t@t",
                       GIT_CONFIG_NOSYSTEM="1", HOME=work)

    def git(*arguments):
        done = subprocess.run(["git", "-c", "gc.auto=0", *arguments], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done.stdout

    def fill(clone, count):
        for _ in range(count):
            path = f"{clone}/d{random.randrange(8)}/f{random.randrange(30)}"
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w") as file:
                file.writelines(f"line {line} of {random.randrange(99)}\n" for line in range(random.randrange(1, 300)))

    git("init", "-q", "--bare", "-b", "main", f"{one}/origin.git")
    clones = [f"{one}/clone-first", f"{two}/clone-second"]
    git("clone", "-q", f"{one}/origin.git", clones[0])
    git("-C", clones[0], "checkout", "-q", "-b", "main")
    fill(clones[0], 60)
    git("-C", clones[0], "add", "-A")
    git("-C", clones[0], "commit", "-qm", "first")
    git("-C", clones[0], "push", "-q", "origin", "main")
    git("clone", "-q", f"{two}/origin.git", clones[1])
    with open(f"{work}/begun-git", "w") as begun:
        begun.write("begun")
    commits = 1
    while not stopped():
        mine, other = clones if commits % 2 else clones[::-1]
        fill(mine, 5)
        git("-C", mine, "add", "-A")
        git("-C", mine, "commit", "-qm", f"commit {commits}")
        git("-C", mine, "push", "-q", "origin", "main")
        commits += 1
        git("-C", other, "pull", "-q", "--ff-only", "origin", "main")
        heads = [git("-C", clone, "rev-parse", "HEAD^{tree}", "HEAD") for clone in clones]
        assert heads[0] == heads[1], heads
        for clone in clones:
            assert git("-C", clone, "status", "--porcelain") == "", clone
        assert int(git("-C", other, "rev-list", "--count", "HEAD")) == commits
        if commits % 10 == 0:
            git("-C", mine, "gc", "-q")
            git("-C", other, "fsck", "--full")
            fresh = f"{two if mine.startswith(one) else one}/fresh"
            git("clone", "-q", f"{os.path.dirname(fresh)}/origin.git", fresh)
            assert subprocess.run(["diff", "-r", "--exclude", ".git", fresh, mine]).returncode == 0
            subprocess.run(["rm", "-r", fresh], check=True)
    for directory in (*clones, f"{two}/origin.git"):
        git("-C", directory, "fsck", "--full")
    print(f"git: {commits} commits pushed from one mount and pulled on the other")


def sqlite_storm(place, name, seed):
    """Amounts moved between accounts: in a database of both mounts, and in one of this mount alone, with a log beside it."""
    random.seed(int(seed) + len(name))
    transactions = 0

    def base(path, mode):
        opened = sqlite3.connect(path, isolation_level=None, timeout=120)
        opened.execute(f"pragma journal_mode={mode}")
        opened.execute("pragma synchronous=full")
        opened.execute("begin immediate")
        opened.execute("create table if not exists account(id integer primary key, amount integer)")
        opened.execute("create table if not exists log(who text, number integer, data blob)")
        opened.executemany("insert or ignore into account values(?, 1000)", [(i,) for i in range(100)])
        opened.execute("commit")
        return opened

    bases = [(base(f"{place}/shared", "delete"), "shared"), (base(f"{place}/{name}", "wal"), name)]
    while not stopped():
        transactions += 1
        for opened, which in bases:
            a, b = random.randrange(100), random.randrange(100)
            opened.execute("begin immediate")
            opened.execute("update account set amount = amount - 7 where id = ?", (a,))
            opened.execute("update account set amount = amount + 7 where id = ?", (b,))
            opened.execute("insert into log values(?, ?, randomblob(?))", (name, transactions, random.choice([10, 500, 9000])))
            if transactions % 40 == 0:
                opened.execute("delete from log where who = ? and number % 3 = 0 and number < ?", (name, transactions - 20))
            opened.execute("commit")
            last = opened.execute("select max(number) from log where who = ?", (name,)).fetchone()
            assert last == (transactions,), (which, last, transactions)
            if transactions % 50 == 0:
                opened.execute("begin")
                assert opened.execute("pragma integrity_check").fetchall() == [("ok",)], which
                assert opened.execute("select sum(amount), count(*) from account").fetchone() == (100000, 100), which
                opened.execute("commit")
        time.sleep(0.05)
    for opened, which in bases:
        assert opened.execute("pragma integrity_check").fetchall() == [("ok",)], which
        assert opened.execute("select sum(amount), count(*) from account").fetchone() == (100000, 100), which
        opened.close()
    print(f"sqlite on {name}: {transactions} transactions in each of two databases")


{"probe": probe, "git": git_storm, "sqlite": sqlite_storm}[sys.argv[1]](*sys.argv[3:])
