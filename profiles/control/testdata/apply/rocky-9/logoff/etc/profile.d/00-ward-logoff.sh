# mode -rw-r--r--
# ward: logoff. bash and ksh end after so many seconds at an empty prompt.
if (unset TMOUT) 2>/dev/null; then
	TMOUT=900
	readonly TMOUT
	export TMOUT
fi
