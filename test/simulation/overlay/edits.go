package overlay

// edits are the changes of the runtime that make a run of a program with GOMAXPROCS=1 a function of WEIR_SIM_SEED. They
// were written for go1.26 on linux/amd64.
//
// Four things make runs of one program differ: random numbers of the runtime, the machine's clock, the number of
// threads, and heap addresses, which decide the order of maps with pointers as keys.
var edits = []edit{
	{
		file: "runtime/rand.go", about: "one stream of random numbers for all threads: maps, math/rand, maphash, select",
		old: "func rand() uint64 {\n",
		new: `func rand() uint64 {
	x := simRand.Add(-0x61c8864680b583eb)
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// simRand is the state of the stream: SplitMix64.
var simRand atomic.Uint64

// simSeed starts the stream at WEIR_SIM_SEED.
func simSeed() {
	n := uint64(0)
	for _, c := range []byte(gogetenv("WEIR_SIM_SEED")) {
		n = n*10 + uint64(c-'0')
	}
	simRand.Store(n * 0xd1342543de82ef95)
	randomizeScheduler = gogetenv("WEIR_SIM_SHUFFLE") == "1"
}

// threadRand is what the runtime had.
func threadRand() uint64 {
`,
	},
	{
		file: "runtime/rand.go", about: "the import that the stream needs",
		old: "\t\"internal/goarch\"\n", new: "\t\"internal/goarch\"\n\t\"internal/runtime/atomic\"\n",
	},
	{
		file: "runtime/rand.go", about: "the state from which threads are seeded ignores what the kernel passes",
		old: "\tseed := &globalRand.seed\n", new: "\tseed := &globalRand.seed\n\tstartupRand = nil\n",
	},
	{
		file: "runtime/rand.go", about: "the state from which threads are seeded is zero: locks and the heap's base start equal",
		old: "readRandom(seed[:]) != len(seed) || allZero(seed[:])", new: "false",
	},
	{
		file: "runtime/synctest.go", about: "a bubble begins with the seed, and at the start of a time slice",
		old: "\t// This is newproc, but also records",
		new: "\tsimSeed()\n\tgetg().m.p.ptr().schedtick = 0\n\t// This is newproc, but also records",
	},
	{
		file: "runtime/select.go", about: "the case that select takes comes from the stream",
		old: "j := cheaprandn(uint32(norder + 1))", new: "j := randn(uint32(norder + 1))",
	},
	{
		file: "runtime/time.go", about: "the order of timers of one instant comes from the stream",
		old: "t.rand = cheaprand()", new: "t.rand = uint32(rand())",
	},
	{
		file: "runtime/iface.go", about: "when the cache of type assertions grows, on the heap, comes from the stream",
		old: "cheaprand()&1023", new: "uint32(rand())&1023", times: 2,
	},
	{
		file: "runtime/iface.go", about: "the slot of that cache comes from the stream",
		old: "cheaprand()&uint32(oldC.Mask)", new: "uint32(rand())&uint32(oldC.Mask)", times: 2,
	},
	{
		file: "runtime/sema.go", about: "the order of goroutines that wait for a mutex comes from the stream",
		old: "s.ticket = cheaprand() | 1", new: "s.ticket = uint32(rand()) | 1",
	},
	{
		file: "runtime/proc.go", about: "no time slices",
		old: "const forcePreemptNS = 10 * 1000 * 1000", new: "const forcePreemptNS = 3600 * 1000 * 1000 * 1000",
	},
	{
		file: "runtime/proc.go", about: "no monitor thread, which acts by the clock",
		old: "const haveSysmon = GOARCH != \"wasm\"", new: "const haveSysmon = false",
	},
	{
		file: "runtime/proc.go", about: "WEIR_SIM_SHUFFLE=1 draws the goroutine that runs next, as a race build does",
		old: "const randomizeScheduler = raceenabled", new: "var randomizeScheduler bool",
	},
	{
		file: "runtime/proc.go", about: "without it a goroutine that was made ready runs next, although there is no monitor",
		old: "if !haveSysmon && next {", new: "if !randomizeScheduler && next {",
	},
	{
		file: "runtime/proc.go", about: "the drawn order comes from the stream",
		old: "j := cheaprandn(i + 1)", new: "j := randn(i + 1)", times: 2,
	},
	{
		file: "runtime/proc.go", about: "main is not bound to its thread: one thread does all that happens before main",
		old: "\tlockOSThread()\n\n\tif mp != &m0 {", new: "\tif mp != &m0 {",
	},
	{
		file: "runtime/proc.go", about: "main is not unbound either",
		old: "\tneedUnlock = false\n\tunlockOSThread()\n", new: "\tneedUnlock = false\n",
	},
	{
		file: "runtime/proc.go", about: "nor when it panics",
		old: "\tneedUnlock := true\n", new: "\tneedUnlock := false\n",
	},
	{
		// How many threads there are depends on the machine.
		file: "runtime/proc.go", about: "the record of a thread is not on the heap",
		old: "\tmp := &new(mPadded).m\n",
		new: "\tmp := &(*mPadded)(add(persistentalloc(mutexMOffset+unsafe.Sizeof(mPadded{}), 2048, &memstats.other_sys), mutexMOffset)).m\n",
	},
	{
		file: "runtime/proc.go", about: "the stack of a thread is not on the heap",
		old: "func malg(stacksize int32) *g {\n\tnewg := new(g)\n",
		new: "func malg(stacksize int32) *g {\n\tif stacksize > stackMin {\n\t\treturn threadG(stacksize)\n\t}\n\tnewg := new(g)\n",
	},
	{
		file: "runtime/proc.go", about: "the function that allocates it",
		old: "// Create a new g running fn.\n",
		new: `// threadG is malg for a thread: memory that is never freed.
func threadG(stacksize int32) *g {
	newg := (*g)(persistentalloc(unsafe.Sizeof(g{}), 64, &memstats.other_sys))
	n := uintptr(round2(stackSystem + stacksize))
	newg.stack.lo = uintptr(persistentalloc(n, 4096, &memstats.other_sys))
	newg.stack.hi = newg.stack.lo + n
	newg.stackguard0 = newg.stack.lo + stackGuard
	newg.stackguard1 = ^uintptr(0)
	*(*uintptr)(unsafe.Pointer(newg.stack.lo)) = 0
	return newg
}

// Create a new g running fn.
`,
	},
	{
		file: "runtime/mgcpacer.go", about: "no collections, which take their turns by the clock",
		old: "func readGOGC() int32 {\n", new: "func readGOGC() int32 {\n\tif true {\n\t\treturn -1\n\t}\n",
	},
	{
		file: "runtime/stack.go", about: "stacks start at a size that most goroutines need: without collections it is not adapted",
		old: "var startingStackSize uint32 = fixedStack", new: "var startingStackSize uint32 = 8192",
	},
	{
		file: "runtime/mem_linux.go", about: "the heap, of which nothing is freed, is in huge pages: a tenth of a run was page faults",
		old: "\tif debug.disablethp != 0 {\n\t\tsysNoHugePageOS(v, n)\n\t}\n}\n",
		new: "\tsysHugePageOS(v, n)\n}\n",
	},
	{
		file: "internal/sync/mutex.go", about: "no starving mutexes: whether a wait was long depends on the clock",
		old: "starvationThresholdNs = 1e6", new: "starvationThresholdNs = 1e18",
	},
}
