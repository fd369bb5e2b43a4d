// The npm package ws on stagecue.v1. Told what to do by its first argument and by lines of JSON; tells what it sees.
import { createInterface } from 'node:readline';
import WebSocket from 'ws';

const asked = JSON.parse(process.argv[2]);
const tell = (event, more = {}) => process.stdout.write(`${JSON.stringify({ event, ...more })}\n`);

const socket = new WebSocket(asked.url, asked.protocols, { headers: asked.headers ?? {}, origin: asked.origin });
socket.on('open', () => tell('open', { protocol: socket.protocol, extensions: socket.extensions }));
socket.on('message', (data, binary) => tell('message', { binary, frame: JSON.parse(data.toString()) }));
socket.on('ping', () => tell('ping'));
socket.on('pong', (data) => tell('pong', { data: data.toString() }));
socket.on('unexpected-response', (request, response) => {
  tell('refused', { status: response.statusCode, headers: response.headers });
  request.destroy();
});
socket.on('error', (error) => tell('error', { message: error.message }));
socket.on('close', (code, reason) => {
  tell('close', { code, reason: reason.toString() });
  process.exit(0);
});

createInterface({ input: process.stdin }).on('line', (line) => {
  const { send, pieces, binary, ping, close } = JSON.parse(line);
  if (send !== undefined) socket.send(send);
  if (pieces) {
    pieces.forEach((piece, at) => {
      socket.send(piece, { fin: at === pieces.length - 1 });
      if (at === 0) socket.ping('between');
    });
  }
  if (binary !== undefined) socket.send(Buffer.from(binary));
  if (ping !== undefined) socket.ping(ping);
  if (close) socket.close(close);
});
