// Node's http as an application of the cluster tests: answers as server.py does. It closes
// connections that were idle for 300 ms.
const LARGE = Buffer.alloc(1048576, "weft");

const server = require("http").createServer((request, response) => {
  let size = 0, sum = 0;
  request.on("data", (part) => {
    size += part.length;
    for (const byte of part) sum += byte;
  });
  request.on("end", () => {
    const fields = request.rawHeaders.filter((text, at) => at % 2 === 0);
    const cookies = fields.filter((name) => name.toLowerCase() === "cookie").length;
    const line = `${request.method} ${request.url} ${cookies} ${size} ${sum % 65521}\n`;
    response.setHeader("Content-Type", "text/plain");
    response.setHeader("Set-Cookie", ["a=1", "b=2"]);
    if (request.url === "/empty") return response.writeHead(204).end();
    // Without a length: in chunks.
    response.write(request.url === "/large" ? LARGE : line);
    response.end();
  });
});
server.keepAliveTimeout = 300;
server.listen(8080, "::");
