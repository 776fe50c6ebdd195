//! The PostgreSQL fixture, asked by PostgreSQL's own client.
#![expect(clippy::expect_used, reason = "a panic is a failing test")]

use std::{
    net::TcpStream,
    process::{Command, Output},
};

use kasbah_testkit::postgres::Postgres;

fn psql(url: &str, statements: &str) -> Output {
    Command::new("psql")
        .args(["--no-psqlrc", "-v", "ON_ERROR_STOP=1", "-Atqc", statements, url])
        .output()
        .expect("psql starts; apt-get install postgresql")
}

fn answer(url: &str, statements: &str) -> String {
    let output = psql(url, statements);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
}

#[test]
fn a_server_of_its_own_survives_an_outage() {
    let mut ours = Postgres::start();
    let other = Postgres::start();
    assert_ne!(ours.url(), other.url());
    assert_eq!(answer(&ours.url(), "select current_user, current_database()"), "kasbah|kasbah");
    answer(&ours.url(), "create table kept (id int); insert into kept values (7)");
    assert!(
        !psql(&other.url(), "select * from kept").status.success(),
        "two servers, one database"
    );
    assert!(!psql(&ours.url(), "create role more").status.success(), "kasbah is a superuser");

    ours.stop();
    assert!(TcpStream::connect(("127.0.0.1", ours.port())).is_err(), "stopped, yet it accepts");
    assert!(!psql(&ours.url(), "select 1").status.success());
    assert_eq!(answer(&other.url(), "select 1"), "1");

    let url = ours.url();
    ours.start_again();
    assert_eq!(ours.url(), url);
    assert_eq!(answer(&url, "select id from kept"), "7");

    drop(ours);
    assert!(!psql(&url, "select 1").status.success(), "dropped, yet it answers");
}
