// Runs the public suite http-tests/cache-tests against `larder serve`, and prints what came of it, group by group.
//
//   git clone https://github.com/http-tests/cache-tests && (cd cache-tests && npm install undici@7 --no-save)
//   cargo build
//   CACHE_TESTS=cache-tests node --no-warnings tests/conformance/run.mjs tests/profiles/http.yaml [TEST-ID…]
//
// With ids, each of these tests is run alone and all that was said is shown. LARDER names another binary; CHUNK says how
// many tests run at once (25, as upstream does). Exit status 1 if a required test failed.
//
// NUMBERED=1 is for a profile that does not pass the suite's own request fields on (a route with a `ttl`): requests are
// numbered on their way to the origin, and a test counts for itself, whatever it depends on.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import process from 'node:process'

const [profile, ...ids] = process.argv.slice(2)
const suite = process.env.CACHE_TESTS
if (!profile || !suite) {
  console.error('usage: CACHE_TESTS=checkout node tests/conformance/run.mjs tests/profiles/http.yaml [TEST-ID…]')
  process.exit(64)
}
const larder = process.env.LARDER ?? 'target/debug/larder'
const of = path => import(pathToFileURL(join(resolve(suite), path)))
const all = (await of('tests/index.mjs')).default
const { runTests, getResults } = await of('test-engine/client/runner.mjs')
const { determineTestResult, resultTypes } = await of('test-engine/lib/results.mjs')

const [origin, listen, admin] = await Promise.all([freePort(), freePort(), freePort()])
const numbered = process.env.NUMBERED === '1'
const upstream = numbered ? await relay(origin) : origin
const children = [
  start(process.execPath, [join(resolve(suite), 'test-engine/server/server.mjs')], {
    npm_config_protocol: 'http', npm_config_port: origin, npm_config_pidfile: join(tmpdir(), `cache-tests-${process.pid}.pid`)
  }),
  start(larder, ['serve', '-c', profile], {
    LISTEN: `127.0.0.1:${listen}`, ADMIN: `127.0.0.1:${admin}`, UPSTREAM: `http://127.0.0.1:${upstream}`
  })
]
try {
  await Promise.all([answers(`http://127.0.0.1:${origin}/state/-`), answers(`http://127.0.0.1:${listen}/state/-`)])
  const chosen = all.map(group => ({
    ...group, tests: group.tests.filter(test => !test.browser_only && (!ids.length || ids.includes(test.id)))
  }))
  if (ids.length) chosen.forEach(group => group.tests.forEach(test => { test.dump = true }))
  await runTests(chosen, false, `http://127.0.0.1:${listen}`, Number(process.env.CHUNK ?? 25))
  process.exitCode = report(chosen, getResults())
} finally {
  children.forEach(child => child.kill())
  process.exit()
}

function report (groups, results) {
  const failed = []
  const total = { required: [0, 0], optimal: [0, 0], check: [0, 0] }
  const fraction = ([passed, count]) => count ? `${passed} of ${count}` : ''
  console.log('| group | required | optional | yes to a question |\n| --- | --- | --- | --- |')
  for (const group of groups.filter(group => group.tests.length)) {
    const counts = { required: [0, 0], optimal: [0, 0], check: [0, 0] }
    for (const test of group.tests) {
      const kind = test.kind ?? 'required'
      const result = determineTestResult(all, test.id, results, !ids.length && !numbered)
      const passed = result === resultTypes.pass || result === resultTypes.yes
      for (const count of [counts[kind], total[kind]]) {
        count[0] += passed ? 1 : 0
        count[1] += 1
      }
      if (!passed) failed.push([kind, group.id, test.id, result[2], results[test.id]?.join?.(': ') ?? ''])
    }
    console.log(`| ${group.name} | ${['required', 'optimal', 'check'].map(kind => fraction(counts[kind])).join(' | ')} |`)
  }
  console.log(`| **all** | ${['required', 'optimal', 'check'].map(kind => fraction(total[kind])).join(' | ')} |\n`)
  for (const line of failed) console.log(line.join('  '))
  return total.required[0] < total.required[1] ? 1 : 0
}

function start (program, args, environment) {
  const env = { ...process.env, ...Object.fromEntries(Object.entries(environment).map(([k, v]) => [k, String(v)])) }
  return spawn(program, args, { env, stdio: ['ignore', ids.length ? 'inherit' : 'ignore', 'inherit'] })
}

// Passes bytes on, and gives each request of a test that brings no number the next one.
async function relay (origin) {
  const seen = new Map()
  const next = head => {
    const path = head.slice(0, head.indexOf('\r\n')).split(' ')[1].split('?')[0]
    seen.set(path, (seen.get(path) ?? 0) + 1)
    return seen.get(path)
  }
  const server = createServer(client => {
    const up = connect(origin, '127.0.0.1')
    up.pipe(client)
    client.on('data', data => {
      const text = data.toString('latin1')
      const at = text.indexOf('\r\n') + 2
      const number = /^[A-Z-]+ \/test\//.test(text) ? next(text) : undefined
      const unnumbered = number && !/\r\nreq-num:/i.test(text)
      up.write(unnumbered ? Buffer.from(`${text.slice(0, at)}Req-Num: ${number}\r\n${text.slice(at)}`, 'latin1') : data)
    })
    const end = () => { client.destroy(); up.destroy() }
    for (const socket of [client, up]) socket.on('close', end).on('error', end)
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  server.unref()
  return server.address().port
}

async function freePort () {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address()
  server.close()
  await once(server, 'close')
  return port
}

async function answers (url) {
  for (let attempt = 0; attempt < 200; attempt++) {
    try {
      await (await fetch(url)).text()
      return
    } catch {
      await new Promise(resolve => setTimeout(resolve, 50))
    }
  }
  throw new Error(`${url} does not answer`)
}
