// The peer: a minimal probot app that does what our webhook does and no more. It checks the signature (probot does),
// keeps the delivery in SQLite with the same durability, and answers. Started by run.py: node peer.mjs FILE
import { createServer } from "node:http";
import { createHash } from "node:crypto";
import { DatabaseSync } from "node:sqlite";
import { Probot, createNodeMiddleware } from "probot";

const database = new DatabaseSync(process.argv[2]);
database.exec("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA busy_timeout=30000");
database.exec(
  "CREATE TABLE inbox (id TEXT PRIMARY KEY, body_digest TEXT UNIQUE, event TEXT, body TEXT, received REAL)",
);
const keep = database.prepare("INSERT OR IGNORE INTO inbox VALUES (?, ?, ?, ?, ?)");

const app = (probot) => {
  probot.onAny(({ id, name, payload }) => {
    const body = JSON.stringify(payload);
    const digest = createHash("sha256").update(name).update("\n").update(body).digest("hex");
    keep.run(id, digest, name, body, Date.now() / 1000);
  });
};

const probot = new Probot({
  appId: 1,
  privateKey: process.env.PEER_KEY,
  secret: process.env.PEER_SECRET,
  logLevel: "error",
});
const middleware = await createNodeMiddleware(app, { probot, webhooksPath: "/webhook" });
const server = createServer(async (request, response) => {
  if (!(await middleware(request, response))) response.writeHead(404).end();
});
server.listen(0, "127.0.0.1", () => console.log(`http://127.0.0.1:${server.address().port}/webhook`));
